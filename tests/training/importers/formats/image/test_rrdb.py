"""ESRGAN and Real-ESRGAN checkpoints with the tensor names of 2018, of 2019 and of today."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.rrdb import BLOCKS, rrdb_shapes
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


def as_2019(name):
    """Convert a name to the ESRGAN repository's names after its first refactoring."""
    for new, old in (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), (".rdb", ".RDB")):
        name = name.replace(new, old)
    return name.replace("conv_up", "upconv").replace("conv_hr", "HRconv")


def as_2018(name):
    """Convert a name to the names in `RRDB_ESRGAN_x4_old_arch.pth`, which is one sequence."""
    path, _, attribute = name.rpartition(".")
    indices = {"conv_first": "0", "conv_body": f"1.sub.{BLOCKS}", "conv_hr": "8", "conv_last": "10"}
    indices |= {"conv_up1": "3", "conv_up2": "6"}
    if path in indices:
        return f"model.{indices[path]}.{attribute}"
    _, block, dense, conv = path.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{attribute}"


def reference_output(t, x, fold=1, doublings=2):
    """Upscale ``[N, C, H, W]`` in [0, 1] as in section 3.1 of the paper."""

    def conv(path, x):
        return F.conv2d(x, t[f"{path}.weight"], t[f"{path}.bias"], padding=1)

    if fold > 1:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // fold, fold, w // fold, fold).permute(0, 1, 3, 5, 2, 4)
        x = x.reshape(n, c * fold**2, h // fold, w // fold)
    first = conv("conv_first", x)
    x = first
    for block in range(BLOCKS):
        block_input = x
        for dense in range(1, 4):
            parts = [x]
            for i in range(1, 5):
                outputs = conv(f"body.{block}.rdb{dense}.conv{i}", torch.cat(parts, 1))
                parts.append(F.leaky_relu(outputs, 0.2))
            x = x + 0.2 * conv(f"body.{block}.rdb{dense}.conv5", torch.cat(parts, 1))
        x = block_input + 0.2 * x
    x = first + conv("conv_body", x)
    for i in range(1, doublings + 1):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.leaky_relu(conv(f"conv_up{i}", x), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", x), 0.2))


def weights(**variant):
    return random_tensors(rrdb_shapes(**variant), scale=0.15)


def probe_inputs(channels=3):
    image = torch.from_numpy(probe_images(range(2), 12, channels)[:, :8].copy())
    return image, image.double().permute(0, 3, 1, 2) / 255


@pytest.mark.slow
def test_served_outputs_of_params_ema_match_reference(tmp_path):
    tensors = weights()
    torch.save({"params_ema": tensors, "params": weights()}, tmp_path / "x4plus.pth")
    best, model = import_checkpoint(
        tmp_path / "x4plus.pth", tmp_path / "models", UserOptions(side=16)
    )
    assert (best.format.name, best.network.name) == ("rrdb", "params_ema")
    assert (model.manifest.task, model.manifest.input.factor) == ("upscale", 4)
    image, x = probe_inputs()
    expected = to_levels(2 * reference_output(to_float64(tensors), x) - 1)
    assert expected.std() > 10
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert np.abs(outputs.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("variant", "fold", "rename"),
    [
        ({}, 1, as_2018),
        ({}, 1, as_2019),
        ({"in_channels": 12}, 2, str),
        ({"in_channels": 48}, 4, as_2019),
        ({"in_channels": 1, "out_channels": 1}, 1, as_2018),
    ],
)
def test_imports_all_naming_schemes_and_factors(tmp_path, variant, fold, rename):
    tensors = weights(**variant)
    torch.save({rename(name): value for name, value in tensors.items()}, tmp_path / "x.pth")
    best = recognize(tmp_path / "x.pth")
    image_input = best.converted.input
    assert (image_input.factor, image_input.multiple) == (4 // fold, fold)
    assert best.converted.task == ("translate" if fold == 4 else "upscale")
    image, x = probe_inputs(variant.get("out_channels", 3))
    expected = 2 * reference_output(to_float64(tensors), x, fold) - 1
    assert expected.std() > 0.1
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-4


def test_error_names_missing_layer(tmp_path):
    tensors = weights()
    del tensors["body.1.rdb2.conv3.weight"]
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(ModelImportError, match=r"RRDB.*body\.1\.rdb2\.conv3\.weight is missing"):
        recognize(tmp_path / "x.pth")
