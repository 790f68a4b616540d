"""PyTorch-StudioGAN checkpoints, compared with a reference implementation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider
from tests.support.checkpoints import PLAN, random_tensors, recognize, to_levels
from tests.support.reference_networks import (
    ReferenceLayers,
    batch_norm,
    converted_pixels,
    pytorch_weight,
    spectral_norm_shapes,
    upsample_nearest,
    with_singular_vectors,
)
from training.cli.import_ import import_
from training.importers.options import UserOptions

CLASSES, SHARED, CHUNK = 3, 5, 4
ATTENTION = ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", "sigma")
DEEP = ("big_resnet_deep_legacy", "big_resnet_deep_studiogan")


def layer_shapes(name, *shape, bias=True, spectral=True, outputs=0):
    if spectral:
        shapes = spectral_norm_shapes(name, *shape, bias=bias, outputs=outputs)
    else:
        shapes = {f"{name}.weight": shape}
    return shapes | ({f"{name}.bias": (shape[outputs],)} if bias else {})


def norm_shapes(name, width, condition, spectral):
    inner = f"{name}.bn" if condition else name
    shapes = {f"{inner}.running_mean": (width,), f"{inner}.running_var": (width,)}
    shapes[f"{inner}.num_batches_tracked"] = ()
    if not condition:
        return shapes | {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for part in ("gain", "bias"):
        shapes |= layer_shapes(f"{name}.{part}", width, condition, bias=False, spectral=spectral)
    return shapes


def attention_shapes(name, c, spectral):
    shapes = {f"{name}.sigma": (1,)}
    sizes = [(c // 8, c), (c // 8, c), (c // 2, c), (c, c // 2)]
    for part, size in zip(ATTENTION, sizes, strict=False):
        shapes |= layer_shapes(f"{name}.{part}", *size, 1, 1, bias=False, spectral=spectral)
    return shapes


def checkpoint_tensors(backbone, widths, attention_stage, conditional=True, spectral=True):
    """Return random weights, with attention after one stage, and the dimension of z."""
    options = {"spectral": spectral}
    deep, big = backbone in DEEP, backbone.startswith("big")
    shared = SHARED if conditional and big else 0
    shapes = {"shared.weight": (CLASSES, SHARED)} if shared else {}
    z_dim = CHUNK * len(widths) if backbone == "big_resnet" else CHUNK
    condition = shared + CHUNK if big else CLASSES if conditional else 0
    shapes |= layer_shapes("linear0", 16 * widths[0], condition if deep else CHUNK, **options)
    index = 0
    for stage, (fan_in, fan_out) in enumerate(pairwise(widths)):
        for a, b in [(fan_in, fan_in), (fan_in, fan_out)] if deep else [(fan_in, fan_out)]:
            path, inner = f"blocks.{index}.0", a // 4
            index += 1
            if backbone == "deep_conv":
                shapes |= layer_shapes(f"{path}.deconv0", a, b, 4, 4, outputs=1, **options)
                shapes |= norm_shapes(f"{path}.bn0", b, condition, spectral)
                continue
            convolutions = [(b, a, 3), (b, b, 3)]
            if deep:
                convolutions = [(inner, a, 1), (inner, inner, 3), (inner, inner, 3), (b, inner, 1)]
            if backbone != "big_resnet_deep_legacy":
                shapes |= layer_shapes(f"{path}.conv2d0", b, a, 1, 1, **options)
            for i, (out, fan, kernel) in enumerate(convolutions):
                shapes |= layer_shapes(f"{path}.conv2d{i + 1}", out, fan, kernel, kernel, **options)
            for i, width in enumerate([a, inner, inner, inner] if deep else [a, b]):
                shapes |= norm_shapes(f"{path}.bn{i + 1}", width, condition, spectral)
        if stage == attention_stage:
            shapes |= attention_shapes(f"blocks.{index}.0", fan_out, spectral)
            index += 1
    if backbone == "deep_conv":
        shapes |= layer_shapes("conv4", 3, widths[-1], 3, 3, **options)
    else:
        shapes |= norm_shapes("bn4", widths[-1], 0, spectral)
        shapes |= layer_shapes("conv2d5", 3, widths[-1], 3, 3, **options)
    tensors = with_singular_vectors(random_tensors(shapes))
    for name in tensors:
        if "conv2d5.weight" in name or "conv4.weight" in name:
            tensors[name] = tensors[name] * (1 if spectral else 0.02)
    return tensors, z_dim


def reference_output(tensors, backbone, z, label):
    """Return the image of one latent, with the weights of all classes or None."""

    def weight(t, path):
        return pytorch_weight(t, path, 1 if "deconv" in path else 0)

    net = ReferenceLayers(tensors, weight, ATTENTION)
    t = net.t
    deep, big = backbone in DEEP, backbone.startswith("big")
    labels = [] if label is None else [label @ t["shared.weight"] if big else label]
    chunks = z.split(CHUNK) if backbone == "big_resnet" else None
    labels_and_z = torch.cat([*labels, z])
    first_input = labels_and_z if deep else chunks[0] if chunks else z
    x = net.linear("linear0", first_input).reshape(1, -1, 4, 4)

    def norm(path, x, condition):
        if f"{path}.weight" in t:
            mean, var, gain, bias = (
                t[f"{path}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
            )
            return batch_norm(x, mean, var, 1e-4, gain, bias)
        gain, bias = (net.weight(f"{path}.{part}") @ condition for part in ("gain", "bias"))
        mean, var = t[f"{path}.bn.running_mean"], t[f"{path}.bn.running_var"]
        return batch_norm(x, mean, var, 1e-4, 1 + gain, bias)

    count = 0
    for i in sorted({int(name.split(".")[1]) for name in t if name.startswith("blocks.")}):
        path = f"blocks.{i}.0"
        if f"{path}.sigma" in t:
            x = net.self_attention(path, x)
            continue
        condition = torch.cat(labels) if labels else None
        if chunks:
            condition = torch.cat([*labels, chunks[count + 1]])
        if deep:
            condition = labels_and_z
        count += 1
        if backbone == "deep_conv":
            x = F.conv_transpose2d(
                x, net.weight(f"{path}.deconv0"), t[f"{path}.deconv0.bias"], stride=2, padding=1
            )
            x = norm(f"{path}.bn0", x, condition).clamp(min=0)
            continue
        h = norm(f"{path}.bn1", x, condition).clamp(min=0)
        if deep:
            h = norm(f"{path}.bn2", net.conv(f"{path}.conv2d1", h), condition).clamp(min=0)
            h, x = (upsample_nearest(h), upsample_nearest(x)) if count % 2 == 0 else (h, x)
            h = norm(f"{path}.bn3", net.conv(f"{path}.conv2d2", h), condition).clamp(min=0)
            h = norm(f"{path}.bn4", net.conv(f"{path}.conv2d3", h), condition).clamp(min=0)
            h = net.conv(f"{path}.conv2d4", h)
        else:
            x = upsample_nearest(x)
            h = norm(
                f"{path}.bn2", net.conv(f"{path}.conv2d1", upsample_nearest(h)), condition
            ).clamp(min=0)
            h = net.conv(f"{path}.conv2d2", h)
        has_skip_conv = backbone != "big_resnet_deep_legacy"
        x = h + (net.conv(f"{path}.conv2d0", x) if has_skip_conv else x[:, : h.shape[1]])
    if backbone == "deep_conv":
        return torch.tanh(net.conv("conv4", x))
    return torch.tanh(net.conv("conv2d5", norm("bn4", x, None).clamp(min=0)))


def latent(seed, z_dim, distribution="normal"):
    return torch.from_numpy(seeds.draw([seed], z_dim, distribution))[0].double()


def save_checkpoint(path, tensors):
    """Write a checkpoint with everything that StudioGAN saves."""
    extra = {"seed": 1, "run_name": "CIFAR10-BigGAN-train", "step": 1000, "epoch": 3, "topk": 64}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"state_dict": tensors, "optimizer": optimizer, **extra}, path)


@pytest.mark.parametrize(
    ("backbone", "conditional", "spectral"),
    [
        ("deep_conv", True, True),
        ("deep_conv", False, False),
        ("resnet", True, True),
        ("resnet", False, False),
        ("big_resnet", True, True),
        ("big_resnet", False, True),
        ("big_resnet_deep_legacy", True, True),
        ("big_resnet_deep_studiogan", False, False),
    ],
)
def test_backbones_match_reference(tmp_path, backbone, conditional, spectral):
    tensors, z_dim = checkpoint_tensors(backbone, [16, 16, 16, 8], 1, conditional, spectral)
    save_checkpoint(tmp_path / "model=G_ema-best-weights-step=1000.pth", tensors)
    best = recognize(tmp_path / "model=G_ema-best-weights-step=1000.pth")
    assert best.format.name == "studiogan"
    details = dict(best.converted.details)
    assert details["backbone"] == backbone
    assert details["attention at"] == "16×16"
    assert best.converted.image.height == 32
    assert best.converted.latent.dimension == z_dim
    assert len(best.converted.classes) == (CLASSES if conditional else 0)
    truncates = best.converted.latent.truncation is not None
    assert truncates == backbone.startswith("big")
    blend = torch.tensor([0.25, 0.0, 0.75]).double() if conditional else None
    z = latent(4, z_dim)
    expected = to_levels(reference_output(tensors, backbone, z * (0.6 if truncates else 1), blend))
    assert np.abs(converted_pixels(best, z, blend, 0.6) - expected).max() <= 1
    assert expected.std() > 10


def write_config(path, **model):
    config = {"DATA": {"name": "CIFAR10", "img_size": 8, "num_classes": 3}, "MODEL": model}
    path.write_text(yaml.safe_dump(config))


def test_reads_the_configuration_in_the_same_folder(tmp_path, capsys):
    tensors, z_dim = checkpoint_tensors("deep_conv", [8, 8], 9)
    save_checkpoint(tmp_path / "G.pth", tensors)
    write_config(tmp_path / "DCGAN.yaml", backbone="deep_conv", z_prior="uniform")
    import_(tmp_path / "G.pth", "dcgan", tmp_path / "models", class_names="cat,dog,car")
    assert "deep_conv" in capsys.readouterr().out
    model = Model(tmp_path / "models/dcgan/1", Provider.CPU, PLAN)
    assert model.manifest.latent.distribution == "uniform"
    assert model.manifest.classes == ("cat", "dog", "car")
    pixels = model.generate([1, 2], [0, 2]).astype(int)
    for row, (seed, index) in enumerate(((1, 0), (2, 2))):
        label = F.one_hot(torch.tensor(index), CLASSES).double()
        z = latent(seed, z_dim, "uniform")
        expected = to_levels(reference_output(tensors, "deep_conv", z, label))
        assert np.abs(pixels[row] - expected[0]).max() <= 1
        assert expected.std() > 10


def test_rejects_configuration_of_another_model(tmp_path):
    tensors, _ = checkpoint_tensors("big_resnet", [8, 8], 9)
    save_checkpoint(tmp_path / "G.pth", tensors)
    for model, match in (
        ({"backbone": "deep_conv"}, "has the backbone deep_conv"),
        ({"backbone": "big_resnet", "g_act_fn": "ELU"}, "ELU"),
    ):
        options = UserOptions(config={"MODEL": model})
        with pytest.raises(UserError, match=match):
            recognize(tmp_path / "G.pth", options)
    with pytest.raises(UserError, match="side of 64 pixels"):
        recognize(tmp_path / "G.pth", UserOptions(config={"DATA": {"img_size": 64}}))
