"""CycleGAN checkpoints, against a reference written from the published layout."""

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.errors import ModelImportError
from training.importers.formats.base import UserOptions

WIDTH = 4


def batch_norm(width):
    return {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,)),
        "num_batches_tracked": (),
    }


NORMS = {
    # Without tensors, as in CycleGAN; with unused statistics, as in PyTorch 0.3; variants.
    "instance": lambda _: {},
    "instance, old": lambda width: {"running_mean": (width,), "running_var": (width,)},
    "affine": lambda width: {"weight": (width,), "bias": (width,)},
    "batch": batch_norm,
}


def resnet_shapes(
    blocks, *, norm="instance", dropout=False, in_channels=3, out_channels=3, resized=False
):
    """`ResnetGenerator` of pytorch-CycleGAN-and-pix2pix: a sequence called ``model``."""
    shapes = {}

    def convolution(path, fan_in, width, size, *, transposed=False, bias=norm != "batch"):
        order = (fan_in, width) if transposed else (width, fan_in)
        shapes[f"{path}.weight"] = (*order, size, size)
        if bias:
            shapes[f"{path}.bias"] = (width,)

    def normalized(path, width):
        shapes.update({f"{path}.{name}": shape for name, shape in NORMS[norm](width).items()})

    convolution("model.1", in_channels, WIDTH, 7)
    normalized("model.2", WIDTH)
    for place, width in ((4, WIDTH), (7, 2 * WIDTH)):
        convolution(f"model.{place}", width, 2 * width, 3)
        normalized(f"model.{place + 1}", 2 * width)
    for block in range(10, 10 + blocks):
        for place in (1, 6 if dropout else 5):
            convolution(f"model.{block}.conv_block.{place}", 4 * WIDTH, 4 * WIDTH, 3)
            normalized(f"model.{block}.conv_block.{place + 1}", 4 * WIDTH)
    place = 10 + blocks
    for width in (4 * WIDTH, 2 * WIDTH):
        # An `Upsample` before a convolution has an index of its own.
        place += resized
        convolution(f"model.{place}", width, width // 2, 3, transposed=not resized)
        normalized(f"model.{place + 1}", width // 2)
        place += 3
    convolution(f"model.{place + 1}", WIDTH, out_channels, 7, bias=True)
    return shapes


def reference_output(t, x, *, resized=False):
    """The generator in plain functions; layers are found by the indices in their names."""

    def conv(path, x, **how):
        up = how.pop("up", None)
        run = F.conv_transpose2d if up else F.conv2d
        return run(x, t[f"{path}.weight"], t.get(f"{path}.bias"), **how)

    def normalized(path, x):
        if f"{path}.running_var" in t and f"{path}.weight" in t:
            mean, var = t[f"{path}.running_mean"], t[f"{path}.running_var"]
            return F.batch_norm(x, mean, var, t[f"{path}.weight"], t[f"{path}.bias"])
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        if f"{path}.weight" in t:
            x = x * t[f"{path}.weight"][:, None, None] + t[f"{path}.bias"][:, None, None]
        return x

    def reflected(x, by):
        return F.pad(x, (by, by, by, by), mode="reflect")

    x = F.relu(normalized("model.2", conv("model.1", reflected(x, 3))))
    for place in (4, 7):
        x = conv(f"model.{place}", x, stride=2, padding=1)
        x = F.relu(normalized(f"model.{place + 1}", x))
    pairs = {}
    for name in t:
        found = re.fullmatch(r"(model\.\d+\.conv_block)\.(\d+)\.weight", name)
        if found and t[name].ndim == 4:
            pairs.setdefault(found.group(1), []).append(int(found.group(2)))
    for path, (one, two) in pairs.items():
        y = F.relu(normalized(f"{path}.{one + 1}", conv(f"{path}.{one}", reflected(x, 1))))
        x = x + normalized(f"{path}.{two + 1}", conv(f"{path}.{two}", reflected(y, 1)))
    place = 10 + len(pairs)
    for _ in range(2):
        place += resized
        if resized:
            x = conv(f"model.{place}", F.interpolate(x, scale_factor=2), padding=1)
        else:
            how = {"stride": 2, "padding": 1, "output_padding": 1}
            x = conv(f"model.{place}", x, up=True, **how)
        x = F.relu(normalized(f"model.{place + 1}", x))
        place += 3
    return torch.tanh(conv(f"model.{place + 1}", reflected(x, 3)))


def weights(*args, scale=0.3, **variant):
    """Random weights; small ones in the last layer, so that tanh does not saturate."""
    tensors = drawn(resnet_shapes(*args, **variant), scale=scale)
    last = [name for name in tensors if name.endswith("weight")][-1]
    tensors[last] = tensors[last] * 0.2
    return tensors


def probe_inputs(channels=3, size=(24, 20)):
    image = torch.from_numpy(probe_images(range(2), 24, channels)[:, : size[0], : size[1]].copy())
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


def test_served_outputs_match_reference(tmp_path):
    tensors = weights(2)
    torch.save(tensors, tmp_path / "latest_net_G.pth")
    best, model = imported(tmp_path / "latest_net_G.pth", tmp_path / "models", UserOptions(side=16))
    assert best.format.name == "cyclegan-resnet"
    image_input = model.manifest.input
    assert (model.manifest.task, image_input.multiple, image_input.side, image_input.reach) == (
        "translate",
        4,
        16,
        None,
    )
    image, x = probe_inputs()
    outputs = model.run("generator", {"image": image.numpy()})["pixels"].astype(int)
    expected = to_levels(reference_output(doubles(tensors), x))
    assert expected.std() > 20
    assert np.abs(outputs - expected).max() <= 1


@pytest.mark.parametrize(
    "variant",
    [
        {"blocks": 9},
        {"blocks": 9, "dropout": True, "norm": "batch"},
        {"blocks": 6, "norm": "instance, old"},
        {"blocks": 6, "norm": "affine"},
        {"blocks": 2, "resized": True},
        {"blocks": 2, "in_channels": 1, "out_channels": 3},
        {"blocks": 2, "in_channels": 3, "out_channels": 1, "norm": "batch"},
        {"blocks": 2, "in_channels": 4, "out_channels": 4},
    ],
)
def test_layout_variants(tmp_path, variant):
    tensors = weights(**variant)
    torch.save(tensors, tmp_path / "latest_net_G_A.pth")
    best = recognised(tmp_path / "latest_net_G_A.pth")
    assert dict(best.converted.details)["residual blocks"] == str(variant["blocks"])
    image, x = probe_inputs(variant.get("in_channels", 3))
    expected = reference_output(doubles(tensors), x, resized=variant.get("resized", False))
    assert expected.std() > 0.1
    assert (remade(best, image=image) - expected).abs().max() < 1e-3


def test_other_tensor_names(tmp_path):
    tensors = weights(3, norm="affine")
    renamed = {}
    for name, value in tensors.items():
        new = re.sub(r"model\.(\d+)\.conv_block\.(\d)", r"trunk.res\1.body.layer\2", name)
        renamed["_orig_mod.module." + re.sub(r"^model\.(\d+)\.", r"m\1.", new)] = value
    torch.save({"epoch": 3, "gen": renamed}, tmp_path / "gen.ckpt")
    best = recognised(tmp_path / "gen.ckpt")
    image, x = probe_inputs()
    assert (remade(best, image=image) - reference_output(doubles(tensors), x)).abs().max() < 1e-3


def test_rejects_unknown_layers(tmp_path):
    tensors = weights(3)
    # The filters of an antialiased variant, which has its strides elsewhere.
    tensors["model.6.filt"] = torch.ones(8, 1, 3, 3)
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(ModelImportError, match=r"model\.6\.filt"):
        recognised(tmp_path / "net.pth")
