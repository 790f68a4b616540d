"""BigGAN-PyTorch checkpoints, compared with a reference implementation."""

import contextlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds
from tests.support.checkpoints import import_checkpoint, random_tensors, recognize, to_levels
from tests.support.reference_networks import (
    ReferenceLayers,
    batch_norm,
    biggan_weight,
    converted_pixels,
    upsample_nearest,
)
from training.importers.options import UserOptions

CLASSES, SHARED, CHUNK = 3, 6, 4


def layer_shapes(name, *shape, spectral=True):
    shapes = {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if spectral:
        shapes |= {f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    return shapes


def unbiased_shapes(name, *shape, spectral=True):
    shapes = layer_shapes(name, *shape, spectral=spectral)
    del shapes[f"{name}.bias"]
    return shapes


def statistics_shapes(name, width, kind):
    inner = {"": name, "mybn": f"{name}.bn", "cross": f"{name}.bn"}[kind]
    mean, var = (
        ("running_mean", "running_var") if kind == "cross" else ("stored_mean", "stored_var")
    )
    shapes = {f"{inner}.{mean}": (width,), f"{inner}.{var}": (width,)}
    return shapes | ({f"{inner}.accumulation_counter": (1,)} if kind == "mybn" else {})


def attention_shapes(name, width):
    parts = {"theta": (width // 8, width), "phi": (width // 8, width)}
    parts |= {"g": (width // 2, width), "o": (width, width // 2)}
    shapes = {f"{name}.gamma": ()}
    for part, shape in parts.items():
        shapes |= unbiased_shapes(f"{name}.{part}", *shape, 1, 1)
    return shapes


def biggan_shapes(
    widths, attention_block, hier=True, shared=True, kind="", classes=CLASSES, deep=False
):
    """Return the tensor shapes of BigGAN-PyTorch, and the dimension of z.

    Attention follows block `attention_block`. `kind` is the type of the batch normalizations.
    """
    z = CHUNK * len(widths) if hier and not deep else CHUNK
    shapes = {"shared.weight": (classes, SHARED)} if shared else {}
    condition = SHARED + CHUNK if hier else SHARED
    shapes |= layer_shapes("linear", widths[0] * 16, condition if deep else CHUNK)
    index = 0
    for fan_in, fan_out in pairwise(widths):
        inner = fan_in // 4
        stages = [(fan_in, fan_in), (fan_in, fan_out)] if deep else [(fan_in, fan_out)]
        for a, b in stages:
            path = f"blocks.{index}.0"
            if deep:
                convolutions = [(inner, a, 1), (inner, inner, 3), (inner, inner, 3), (b, inner, 1)]
                norms = [a, inner, inner, inner]
            else:
                convolutions, norms = [(b, a, 3), (b, b, 3)], [a, b]
                shapes |= layer_shapes(f"{path}.conv_sc", b, a, 1, 1)
            for i, (outputs, inputs, kernel) in enumerate(convolutions):
                shapes |= layer_shapes(f"{path}.conv{i + 1}", outputs, inputs, kernel, kernel)
            for i, width in enumerate(norms):
                for part in ("gain", "bias"):
                    name = f"{path}.bn{i + 1}.{part}"
                    if shared:
                        shapes |= unbiased_shapes(name, width, condition)
                    else:
                        shapes[f"{name}.weight"] = (classes, width)
                shapes |= statistics_shapes(f"{path}.bn{i + 1}", width, kind)
            index += 1
        if (index - 1) == attention_block:
            shapes |= attention_shapes(f"blocks.{attention_block}.1", fan_out)
    shapes |= {"output_layer.0.gain": widths[-1:], "output_layer.0.bias": widths[-1:]}
    shapes |= statistics_shapes("output_layer.0", widths[-1], kind)
    return shapes | layer_shapes("output_layer.2", 3, widths[-1], 3, 3), z


def random_weights(shapes, seed=0):
    tensors = random_tensors(shapes, seed)
    for name, value in tensors.items():
        if name.endswith("stored_var"):
            tensors[name] = value.abs() + 0.3
        if name.endswith(("gain.weight", "bias.weight")):
            tensors[name] = value * 0.4
        if name.endswith("accumulation_counter"):
            tensors[name] = torch.zeros(1)
    return tensors


def reference_output(tensors, z, label, deep=False):
    """Return the image of one latent and the weights of all classes."""
    net = ReferenceLayers(tensors, biggan_weight, ("theta", "phi", "g", "o", "gamma"))
    t = net.t
    blocks = sorted({int(n.split(".")[1]) for n in t if n.startswith("blocks.")})
    shared = label @ t["shared.weight"] if "shared.weight" in t else label
    inputs = net.weight("linear").shape[1]
    shared_and_z = torch.cat([shared, z])
    chunks = None if deep or len(z) == inputs else list(z.split(inputs))
    x = net.linear("linear", shared_and_z if deep else chunks[0] if chunks else z).reshape(
        1, -1, 4, 4
    )

    def norm(path, x, condition):
        inner = next(
            p for p in (path, f"{path}.bn") if {f"{p}.stored_mean", f"{p}.running_mean"} & set(t)
        )
        mean = t.get(f"{inner}.stored_mean", t.get(f"{inner}.running_mean"))
        var = t.get(f"{inner}.stored_var", t.get(f"{inner}.running_var"))
        if condition is None:
            gain, bias = t[f"{path}.gain"], t[f"{path}.bias"]
        elif "shared.weight" in t:
            gain, bias = (net.weight(f"{path}.{part}") @ condition for part in ("gain", "bias"))
            gain = 1 + gain
        else:
            gain, bias = (
                1 + condition @ t[f"{path}.gain.weight"],
                condition @ t[f"{path}.bias.weight"],
            )
        return batch_norm(x, mean, var, 1e-5, gain, bias)

    for i in blocks:
        path = f"blocks.{i}.0"
        condition = (
            shared_and_z if deep else torch.cat([shared, chunks[i + 1]]) if chunks else shared
        )
        h = norm(f"{path}.bn1", x, condition).clamp(min=0)
        if deep:
            h = norm(f"{path}.bn2", net.conv(f"{path}.conv1", h), condition).clamp(min=0)
            skip = x[:, : net.weight(f"{path}.conv4").shape[0]]
            if i % 2:
                h, skip = upsample_nearest(h), upsample_nearest(skip)
            h = norm(f"{path}.bn3", net.conv(f"{path}.conv2", h), condition).clamp(min=0)
            h = norm(f"{path}.bn4", net.conv(f"{path}.conv3", h), condition).clamp(min=0)
            x = net.conv(f"{path}.conv4", h) + skip
        else:
            h = norm(
                f"{path}.bn2", net.conv(f"{path}.conv1", upsample_nearest(h)), condition
            ).clamp(min=0)
            x = net.conv(f"{path}.conv2", h) + net.conv(f"{path}.conv_sc", upsample_nearest(x))
        if f"blocks.{i}.1.gamma" in t:
            x = net.self_attention(f"blocks.{i}.1", x)
    x = norm("output_layer.0", x, None).clamp(min=0)
    return torch.tanh(net.conv("output_layer.2", x))


def latent(seed, z_dim):
    return torch.from_numpy(seeds.draw([seed], z_dim))[0].double()


def assert_matches_reference(model, tensors, z_dim, deep=False):
    pixels = model.generate([5, 6], [0, CLASSES - 1], [1.0, 0.5])
    for i, (seed, psi, index) in enumerate(((5, 1.0, 0), (6, 0.5, CLASSES - 1))):
        label = F.one_hot(torch.tensor(index), CLASSES).double()
        expected = to_levels(reference_output(tensors, latent(seed, z_dim) * psi, label, deep))
        assert np.abs(pixels[i].astype(int) - expected[0]).max() <= 1
        assert expected.std() > 10


def test_biggan_matches_reference(tmp_path):
    shapes, z = biggan_shapes([16, 16], 0)
    tensors = random_weights(shapes)
    torch.save(tensors, tmp_path / "G_ema.pth")
    best, model = import_checkpoint(tmp_path / "G_ema.pth", tmp_path / "models")
    assert best.format.name == "biggan-pytorch"
    assert model.manifest.latent.dimension == z
    assert model.manifest.classes == ("0", "1", "2")
    assert_matches_reference(model, tensors, z)


@pytest.mark.slow
def test_biggan_deep_matches_reference(tmp_path):
    shapes, z = biggan_shapes([16, 8], 9, deep=True)
    tensors = random_weights(shapes)
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "G.pth")
    options = UserOptions(class_names=("cat", "dog", "car"))
    best, model = import_checkpoint(tmp_path / "G.pth", tmp_path / "models", options)
    assert best.format.name == "biggan-deep-pytorch"
    assert model.manifest.classes == ("cat", "dog", "car")
    assert_matches_reference(model, tensors, z, deep=True)


@pytest.mark.parametrize(
    ("variant", "attention"),
    [
        ({}, "16×16"),
        ({"hier": False, "kind": "mybn"}, "16×16"),
        ({"hier": False, "shared": False, "kind": "cross"}, "16×16"),
        ({"classes": 1, "shared": False, "hier": False}, "16×16"),
        ({"deep": True}, "8×8"),
    ],
)
def test_layout_variants_match_reference(tmp_path, variant, attention):
    shapes, z_dim = biggan_shapes([16, 16, 16, 8], 1, **variant)
    tensors = random_weights(shapes)
    saved = dict(tensors)
    for name in tensors:
        if name.endswith("accumulation_counter"):
            # Standing statistics are saved as sums over batches.
            path = name.removesuffix("accumulation_counter")
            saved[name] = torch.tensor([4.0])
            for statistic in ("stored_mean", "stored_var"):
                saved[f"{path}{statistic}"] = tensors[f"{path}{statistic}"] * 4
    torch.save(saved, tmp_path / "G_ema.pth")
    best = recognize(tmp_path / "G_ema.pth")
    assert best.converted.image.height == 32
    assert best.converted.latent.dimension == z_dim
    classes = variant.get("classes", CLASSES)
    assert len(best.converted.classes) == (classes if classes > 1 else 0)
    assert dict(best.converted.details)["attention at"] == attention
    blend = torch.full((classes,), 1 / classes).double()
    z = latent(3, z_dim)
    expected = to_levels(reference_output(tensors, 0.7 * z, blend, variant.get("deep", False)))
    assert np.abs(converted_pixels(best, z, blend, 0.7) - expected).max() <= 1
    assert expected.std() > 10


def test_computes_standing_statistics(tmp_path):
    shapes, z_dim = biggan_shapes([8, 8], 9)
    tensors = random_weights(shapes)
    torch.save(tensors, tmp_path / "G_ema.pth")
    best = recognize(tmp_path / "G_ema.pth", UserOptions(statistics="standing"))
    label = torch.tensor([1.0, 0, 0])
    standing = [converted_pixels(best, latent(seed, z_dim), label, 1.0) for seed in range(40)]
    stored = [
        to_levels(reference_output(tensors, latent(s, z_dim), label.double())) for s in range(40)
    ]
    assert np.abs(np.stack(standing) - np.stack(stored)).max() > 10
    # Standing statistics center the activations, whatever the file's statistics are.
    assert abs(np.stack(standing).mean() - 127.5) < abs(np.stack(stored).mean() - 127.5) + 20
    with pytest.raises(UserError, match="running or standing"):
        recognize(tmp_path / "G_ema.pth", UserOptions(statistics="picture"))


def test_requires_side_for_ambiguous_depth(tmp_path):
    shapes, _ = biggan_shapes([8, 8, 8], 9, deep=True)
    fifth = {name.replace("blocks.0.", "blocks.4."): shape for name, shape in shapes.items()}
    torch.save(random_weights(shapes | fifth), tmp_path / "G_ema.pth")
    with pytest.raises(UserError, match="--side"):
        recognize(tmp_path / "G_ema.pth")
    assert recognize(tmp_path / "G_ema.pth", UserOptions(side=8)).converted.image.height == 8


def test_rejects_tensors_with_wrong_shapes(tmp_path):
    shapes, _ = biggan_shapes([8, 8], 0)
    tensors = random_weights(shapes)
    for name, value in list(tensors.items())[::5]:
        truncated = [value[..., :-1]] if value.ndim else []
        for wrong in [*truncated, value[..., None, None], torch.zeros(0)]:
            torch.save(tensors | {name: wrong}, tmp_path / "G_ema.pth")
            with contextlib.suppress(UserError):
                recognize(tmp_path / "G_ema.pth")
    torch.save(tensors | {"output_layer.2.weight": torch.zeros(3, 7, 3, 3)}, tmp_path / "G_ema.pth")
    with pytest.raises(UserError, match="do not fit together"):
        recognize(tmp_path / "G_ema.pth")
