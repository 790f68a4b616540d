import contextlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds
from tests.support.checkpoints import drawn, imported, recognised, to_levels
from tests.support.reference_networks import Layout, converted_pixels, normalised, stepped, twice
from training.importers.formats.base import UserOptions

CLASSES, SHARED, CHUNK = 3, 6, 4


def layer(name, *shape, normalises=True):
    made = {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if normalises:
        made |= {f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    return made


def unbiased(name, *shape, normalises=True):
    made = layer(name, *shape, normalises=normalises)
    del made[f"{name}.bias"]
    return made


def statistics(name, width, kind):
    inner = {"": name, "mybn": f"{name}.bn", "cross": f"{name}.bn"}[kind]
    mean, var = (
        ("running_mean", "running_var") if kind == "cross" else ("stored_mean", "stored_var")
    )
    made = {f"{inner}.{mean}": (width,), f"{inner}.{var}": (width,)}
    return made | ({f"{inner}.accumulation_counter": (1,)} if kind == "mybn" else {})


def attention(name, width):
    shapes = {"theta": (width // 8, width), "phi": (width // 8, width)}
    shapes |= {"g": (width // 2, width), "o": (width, width // 2)}
    made = {f"{name}.gamma": ()}
    for part, shape in shapes.items():
        made |= unbiased(f"{name}.{part}", *shape, 1, 1)
    return made


def biggan_shapes(widths, looks, hier=True, shared=True, kind="", classes=CLASSES, deep=False):
    """The names and shapes of BigGAN-PyTorch, which looks at itself after block `looks`."""
    z = CHUNK * len(widths) if hier and not deep else CHUNK
    shapes = {"shared.weight": (classes, SHARED)} if shared else {}
    condition = SHARED + CHUNK if hier else SHARED
    shapes |= layer("linear", widths[0] * 16, condition if deep else CHUNK)
    place = 0
    for fan_in, fan_out in pairwise(widths):
        inner = fan_in // 4
        stages = [(fan_in, fan_in), (fan_in, fan_out)] if deep else [(fan_in, fan_out)]
        for a, b in stages:
            path = f"blocks.{place}.0"
            if deep:
                convolutions = [(inner, a, 1), (inner, inner, 3), (inner, inner, 3), (b, inner, 1)]
                norms = [a, inner, inner, inner]
            else:
                convolutions, norms = [(b, a, 3), (b, b, 3)], [a, b]
                shapes |= layer(f"{path}.conv_sc", b, a, 1, 1)
            for i, (outputs, inputs, kernel) in enumerate(convolutions):
                shapes |= layer(f"{path}.conv{i + 1}", outputs, inputs, kernel, kernel)
            for i, width in enumerate(norms):
                for part in ("gain", "bias"):
                    name = f"{path}.bn{i + 1}.{part}"
                    if shared:
                        shapes |= unbiased(name, width, condition)
                    else:
                        shapes[f"{name}.weight"] = (classes, width)
                shapes |= statistics(f"{path}.bn{i + 1}", width, kind)
            place += 1
        if (place - 1) == looks:
            shapes |= attention(f"blocks.{looks}.1", fan_out)
    shapes |= {"output_layer.0.gain": widths[-1:], "output_layer.0.bias": widths[-1:]}
    shapes |= statistics("output_layer.0", widths[-1], kind)
    return shapes | layer("output_layer.2", 3, widths[-1], 3, 3), z


def weights(shapes, seed=0):
    tensors = drawn(shapes, seed)
    for name, value in tensors.items():
        if name.endswith("stored_var"):
            tensors[name] = value.abs() + 0.3
        if name.endswith(("gain.weight", "bias.weight")):
            tensors[name] = value * 0.4
        if name.endswith("accumulation_counter"):
            tensors[name] = torch.zeros(1)
    return tensors


def written_out(tensors, z, label, deep=False):
    """The picture of one latent and the weights of all classes."""
    net = Layout(tensors, stepped, ("theta", "phi", "g", "o", "gamma"))
    t = net.t
    blocks = sorted({int(n.split(".")[1]) for n in t if n.startswith("blocks.")})
    shared = label @ t["shared.weight"] if "shared.weight" in t else label
    taken = net.weight("linear").shape[1]
    whole = torch.cat([shared, z])
    chunks = None if deep or len(z) == taken else list(z.split(taken))
    x = net.linear("linear", whole if deep else chunks[0] if chunks else z).reshape(1, -1, 4, 4)

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
        return normalised(x, mean, var, 1e-5, gain, bias)

    for i in blocks:
        path = f"blocks.{i}.0"
        condition = whole if deep else torch.cat([shared, chunks[i + 1]]) if chunks else shared
        h = norm(f"{path}.bn1", x, condition).clamp(min=0)
        if deep:
            h = norm(f"{path}.bn2", net.conv(f"{path}.conv1", h), condition).clamp(min=0)
            kept = x[:, : net.weight(f"{path}.conv4").shape[0]]
            if i % 2:
                h, kept = twice(h), twice(kept)
            h = norm(f"{path}.bn3", net.conv(f"{path}.conv2", h), condition).clamp(min=0)
            h = norm(f"{path}.bn4", net.conv(f"{path}.conv3", h), condition).clamp(min=0)
            x = net.conv(f"{path}.conv4", h) + kept
        else:
            h = norm(f"{path}.bn2", net.conv(f"{path}.conv1", twice(h)), condition).clamp(min=0)
            x = net.conv(f"{path}.conv2", h) + net.conv(f"{path}.conv_sc", twice(x))
        if f"blocks.{i}.1.gamma" in t:
            x = net.attended(f"blocks.{i}.1", x)
    x = norm("output_layer.0", x, None).clamp(min=0)
    return torch.tanh(net.conv("output_layer.2", x))


def latent(seed, z_dim):
    return torch.from_numpy(seeds.draw([seed], z_dim))[0].double()


def agrees(model, tensors, z_dim, deep=False):
    made = model.generate([5, 6], [0, CLASSES - 1], [1.0, 0.5])
    for i, (seed, psi, index) in enumerate(((5, 1.0, 0), (6, 0.5, CLASSES - 1))):
        label = F.one_hot(torch.tensor(index), CLASSES).double()
        expected = to_levels(written_out(tensors, latent(seed, z_dim) * psi, label, deep))
        assert np.abs(made[i].astype(int) - expected[0]).max() <= 1
        assert expected.std() > 10


def test_a_biggan_makes_the_pictures_of_its_weights(tmp_path):
    shapes, z = biggan_shapes([16, 16], 0)
    tensors = weights(shapes)
    torch.save(tensors, tmp_path / "G_ema.pth")
    best, model = imported(tmp_path / "G_ema.pth", tmp_path / "models")
    assert best.format.name == "biggan-pytorch"
    assert model.manifest.latent.dimension == z
    assert model.manifest.classes == ("0", "1", "2")
    agrees(model, tensors, z)


def test_a_biggan_deep_makes_the_pictures_of_its_weights(tmp_path):
    shapes, z = biggan_shapes([16, 8], 9, deep=True)
    tensors = weights(shapes)
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "G.pth")
    said = UserOptions(class_names=("cat", "dog", "car"))
    best, model = imported(tmp_path / "G.pth", tmp_path / "models", said)
    assert best.format.name == "biggan-deep-pytorch"
    assert model.manifest.classes == ("cat", "dog", "car")
    agrees(model, tensors, z, deep=True)


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({}, "16×16"),
        ({"hier": False, "kind": "mybn"}, "16×16"),
        ({"hier": False, "shared": False, "kind": "cross"}, "16×16"),
        ({"classes": 1, "shared": False, "hier": False}, "16×16"),
        ({"deep": True}, "8×8"),
    ],
)
def test_every_arrangement_of_latent_class_and_statistics_is_known(tmp_path, options, looks):
    shapes, z_dim = biggan_shapes([16, 16, 16, 8], 1, **options)
    tensors = weights(shapes)
    saved = dict(tensors)
    for name in tensors:
        if name.endswith("accumulation_counter"):
            # Standing statistics, as the sums that the author's code saves.
            path = name.removesuffix("accumulation_counter")
            saved[name] = torch.tensor([4.0])
            for each in ("stored_mean", "stored_var"):
                saved[f"{path}{each}"] = tensors[f"{path}{each}"] * 4
    torch.save(saved, tmp_path / "G_ema.pth")
    best = recognised(tmp_path / "G_ema.pth")
    assert best.converted.image.height == 32
    assert best.converted.latent.dimension == z_dim
    classes = options.get("classes", CLASSES)
    assert len(best.converted.classes) == (classes if classes > 1 else 0)
    assert dict(best.converted.details)["attention at"] == looks
    blend = torch.full((classes,), 1 / classes).double()
    z = latent(3, z_dim)
    expected = to_levels(written_out(tensors, 0.7 * z, blend, options.get("deep", False)))
    assert np.abs(converted_pixels(best, z, blend, 0.7) - expected).max() <= 1
    assert expected.std() > 10


def test_statistics_are_taken_anew_when_asked_for(tmp_path):
    shapes, z_dim = biggan_shapes([8, 8], 9)
    tensors = weights(shapes)
    torch.save(tensors, tmp_path / "G_ema.pth")
    best = recognised(tmp_path / "G_ema.pth", UserOptions(statistics="standing"))
    label = torch.tensor([1.0, 0, 0])
    made = [converted_pixels(best, latent(seed, z_dim), label, 1.0) for seed in range(40)]
    file = [to_levels(written_out(tensors, latent(s, z_dim), label.double())) for s in range(40)]
    assert np.abs(np.stack(made) - np.stack(file)).max() > 10
    # Whatever a file says, what comes out of a fitted normalisation is spread about nought.
    assert abs(np.stack(made).mean() - 127.5) < abs(np.stack(file).mean() - 127.5) + 20
    with pytest.raises(UserError, match="running or standing"):
        recognised(tmp_path / "G_ema.pth", UserOptions(statistics="picture"))


def test_a_depth_that_shapes_do_not_tell_is_asked_for(tmp_path):
    shapes, _ = biggan_shapes([8, 8, 8], 9, deep=True)
    fifth = {name.replace("blocks.0.", "blocks.4."): shape for name, shape in shapes.items()}
    torch.save(weights(shapes | fifth), tmp_path / "G_ema.pth")
    with pytest.raises(UserError, match="--side"):
        recognised(tmp_path / "G_ema.pth")
    assert recognised(tmp_path / "G_ema.pth", UserOptions(side=8)).converted.image.height == 8


def test_tensors_of_other_shapes_or_none_are_told(tmp_path):
    shapes, _ = biggan_shapes([8, 8], 0)
    tensors = weights(shapes)
    for name, value in list(tensors.items())[::5]:
        others = [value[..., :-1]] if value.ndim else []
        for other in [*others, value[..., None, None], torch.zeros(0)]:
            torch.save(tensors | {name: other}, tmp_path / "G_ema.pth")
            with contextlib.suppress(UserError):
                recognised(tmp_path / "G_ema.pth")
    torch.save(tensors | {"output_layer.2.weight": torch.zeros(3, 7, 3, 3)}, tmp_path / "G_ema.pth")
    with pytest.raises(UserError, match="do not fit together"):
        recognised(tmp_path / "G_ema.pth")
