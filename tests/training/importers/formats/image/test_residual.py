"""CycleGAN checkpoints, against a reference written from the published layout."""

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.residual import resnet_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.errors import ModelImportError
from training.importers.options import UserOptions


def reference_output(t, x, *, resize_conv=False):
    """Return the generator's output; layers are identified by the indices in their names."""

    def conv(path, x, **options):
        up = options.pop("up", None)
        run = F.conv_transpose2d if up else F.conv2d
        return run(x, t[f"{path}.weight"], t.get(f"{path}.bias"), **options)

    def normalized(path, x):
        if f"{path}.running_var" in t and f"{path}.weight" in t:
            mean, var = t[f"{path}.running_mean"], t[f"{path}.running_var"]
            return F.batch_norm(x, mean, var, t[f"{path}.weight"], t[f"{path}.bias"])
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        if f"{path}.weight" in t:
            x = x * t[f"{path}.weight"][:, None, None] + t[f"{path}.bias"][:, None, None]
        return x

    def reflection_pad(x, pad):
        return F.pad(x, (pad, pad, pad, pad), mode="reflect")

    x = F.relu(normalized("model.2", conv("model.1", reflection_pad(x, 3))))
    for index in (4, 7):
        x = conv(f"model.{index}", x, stride=2, padding=1)
        x = F.relu(normalized(f"model.{index + 1}", x))
    pairs = {}
    for name in t:
        found = re.fullmatch(r"(model\.\d+\.conv_block)\.(\d+)\.weight", name)
        if found and t[name].ndim == 4:
            pairs.setdefault(found.group(1), []).append(int(found.group(2)))
    for path, (first, second) in pairs.items():
        y = F.relu(normalized(f"{path}.{first + 1}", conv(f"{path}.{first}", reflection_pad(x, 1))))
        x = x + normalized(f"{path}.{second + 1}", conv(f"{path}.{second}", reflection_pad(y, 1)))
    index = 10 + len(pairs)
    for _ in range(2):
        index += resize_conv
        if resize_conv:
            x = conv(f"model.{index}", F.interpolate(x, scale_factor=2), padding=1)
        else:
            options = {"stride": 2, "padding": 1, "output_padding": 1}
            x = conv(f"model.{index}", x, up=True, **options)
        x = F.relu(normalized(f"model.{index + 1}", x))
        index += 3
    return torch.tanh(conv(f"model.{index + 1}", reflection_pad(x, 3)))


def weights(*args, scale=0.3, **variant):
    """Return random weights; the last layer's are small, so that tanh does not saturate."""
    tensors = random_tensors(resnet_shapes(*args, **variant), scale=scale)
    last = [name for name in tensors if name.endswith("weight")][-1]
    tensors[last] = tensors[last] * 0.2
    return tensors


def probe_inputs(channels=3, size=(24, 20)):
    image = torch.from_numpy(probe_images(range(2), 24, channels)[:, : size[0], : size[1]].copy())
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_served_outputs_match_reference(tmp_path):
    tensors = weights(2)
    torch.save(tensors, tmp_path / "latest_net_G.pth")
    best, model = import_checkpoint(
        tmp_path / "latest_net_G.pth", tmp_path / "models", UserOptions(side=16)
    )
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
    expected = to_levels(reference_output(to_float64(tensors), x))
    assert expected.std() > 20
    assert np.abs(outputs - expected).max() <= 1


@pytest.mark.parametrize(
    "variant",
    [
        {"blocks": 9},
        {"blocks": 9, "dropout": True, "norm": "batch"},
        {"blocks": 6, "norm": "instance, old"},
        {"blocks": 6, "norm": "affine"},
        {"blocks": 2, "resize_conv": True},
        {"blocks": 2, "in_channels": 1, "out_channels": 3},
        {"blocks": 2, "in_channels": 3, "out_channels": 1, "norm": "batch"},
        {"blocks": 2, "in_channels": 4, "out_channels": 4},
    ],
)
def test_layout_variants_match_reference(tmp_path, variant):
    tensors = weights(**variant)
    torch.save(tensors, tmp_path / "latest_net_G_A.pth")
    best = recognize(tmp_path / "latest_net_G_A.pth")
    assert dict(best.converted.details)["residual blocks"] == str(variant["blocks"])
    image, x = probe_inputs(variant.get("in_channels", 3))
    expected = reference_output(
        to_float64(tensors), x, resize_conv=variant.get("resize_conv", False)
    )
    assert expected.std() > 0.1
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-3


def test_recognizes_other_tensor_names(tmp_path):
    tensors = weights(3, norm="affine")
    renamed = {}
    for name, value in tensors.items():
        new = re.sub(r"model\.(\d+)\.conv_block\.(\d)", r"trunk.res\1.body.layer\2", name)
        renamed["_orig_mod.module." + re.sub(r"^model\.(\d+)\.", r"m\1.", new)] = value
    torch.save({"epoch": 3, "gen": renamed}, tmp_path / "gen.ckpt")
    best = recognize(tmp_path / "gen.ckpt")
    image, x = probe_inputs()
    assert (
        converted_images(best, image=image) - reference_output(to_float64(tensors), x)
    ).abs().max() < 1e-3


def test_rejects_unknown_layers(tmp_path):
    tensors = weights(3)
    # The filter of an antialiased variant, which downsamples in other layers.
    tensors["model.6.filt"] = torch.ones(8, 1, 3, 3)
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(ModelImportError, match=r"model\.6\.filt"):
        recognize(tmp_path / "net.pth")


def running_reference(t, x):
    """Return the output with instance normalization by running statistics, as in eval mode."""
    t = dict(t)
    for name in [name for name in t if name.endswith("running_mean")]:
        path = name.removesuffix(".running_mean")
        t[f"{path}.weight"] = torch.ones_like(t[name])
        t[f"{path}.bias"] = torch.zeros_like(t[name])
    return reference_output(t, x)


def test_running_statistics_of_instance_normalization_are_used_on_request(tmp_path):
    tensors = weights(3, norm="instance, old")
    torch.save(tensors, tmp_path / "g.pth")
    image, x = probe_inputs()
    best = recognize(tmp_path / "g.pth")
    assert "statistics of the training" in best.converted.left_out[0]
    assert best.converted.input.reach is None
    running = recognize(tmp_path / "g.pth", UserOptions(statistics="running"))
    assert running.converted.left_out == []
    assert running.converted.input.reach is not None
    expected = running_reference(to_float64(tensors), x)
    assert (converted_images(running, image=image) - expected).abs().max() < 1e-3
    assert (converted_images(best, image=image) - expected).abs().max() > 0.1


def test_statistics_of_each_image_replace_those_of_batch_normalization(tmp_path):
    tensors = weights(3, norm="batch")
    torch.save(tensors, tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth", UserOptions(statistics="picture"))
    image, x = probe_inputs()
    affine = {n: t for n, t in to_float64(tensors).items() if "running" not in n}
    assert (converted_images(best, image=image) - reference_output(affine, x)).abs().max() < 1e-3


def test_statistics_without_an_effect_are_rejected(tmp_path):
    torch.save(weights(3), tmp_path / "g.pth")
    with pytest.raises(ModelImportError, match="--statistics has no effect"):
        recognize(tmp_path / "g.pth", UserOptions(statistics="running"))


def test_block_numbers_tell_that_blocks_pad_with_zeros(tmp_path):
    tensors = weights(3)
    # With zero padding, the authors' blocks have no padding layers.
    names = {".conv_block.1.": ".conv_block.0.", ".conv_block.5.": ".conv_block.3."}
    renamed = {}
    for name, value in tensors.items():
        old = next((each for each in names if each in name), "")
        renamed[name.replace(old, names[old]) if old else name] = value
    torch.save(renamed, tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth")
    (padding,) = [each for each in best.converted.assumptions if each.name == "padding"]
    assert (padding.value, padding.source) == ("zeros", "names")
    torch.save(tensors, tmp_path / "reflect.pth")
    same = recognize(tmp_path / "reflect.pth", UserOptions(assume={"padding": "zeros"}))
    image, x = probe_inputs()
    images = converted_images(best, image=image)
    assert torch.equal(images, converted_images(same, image=image))
    assert (images - reference_output(to_float64(tensors), x)).abs().max() > 0.01


def test_ranges_and_output_activation_follow_the_options(tmp_path):
    tensors = weights(2)
    torch.save(tensors, tmp_path / "g.pth")
    image, x = probe_inputs()
    options = UserOptions(output="sigmoid", input_range="0,1")
    best = recognize(tmp_path / "g.pth", options)
    logits = torch.atanh(reference_output(to_float64(tensors), (x + 1) / 2).clamp(-0.9999, 0.9999))
    expected = 2 * torch.sigmoid(logits) - 1
    assert (converted_images(best, image=image) - expected).abs().max() < 0.02
    with pytest.raises(
        ModelImportError, match="--range 1,0: expected the values of black and white"
    ):
        recognize(tmp_path / "g.pth", UserOptions(range="1,0"))
