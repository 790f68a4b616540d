"""ESRGAN and Real-ESRGAN, in the names of 2018, of 2019 and of today."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.errors import ModelImportError
from training.importers.formats.base import UserOptions

WIDTH, GROWTH, BLOCKS = 6, 3, 2


def rrdb_shapes(seen=3, made=3, doublings=2):
    """`RRDBNet` of BasicSR."""
    shapes = {}

    def convolution(path, fan_in, width):
        shapes[f"{path}.weight"] = (width, fan_in, 3, 3)
        shapes[f"{path}.bias"] = (width,)

    convolution("conv_first", seen, WIDTH)
    for block in range(BLOCKS):
        for dense in range(1, 4):
            for i in range(1, 6):
                width = WIDTH if i == 5 else GROWTH
                path = f"body.{block}.rdb{dense}.conv{i}"
                convolution(path, WIDTH + (i - 1) * GROWTH, width)
    convolution("conv_body", WIDTH, WIDTH)
    for i in range(1, doublings + 1):
        convolution(f"conv_up{i}", WIDTH, WIDTH)
    convolution("conv_hr", WIDTH, WIDTH)
    convolution("conv_last", WIDTH, made)
    return shapes


def as_2019(name):
    """ESRGAN's repository after its first rewriting."""
    for new, old in (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), (".rdb", ".RDB")):
        name = name.replace(new, old)
    return name.replace("conv_up", "upconv").replace("conv_hr", "HRconv")


def as_2018(name):
    """The sequence that `RRDB_ESRGAN_x4_old_arch.pth` is."""
    path, _, attribute = name.rpartition(".")
    places = {"conv_first": "0", "conv_body": f"1.sub.{BLOCKS}", "conv_hr": "8", "conv_last": "10"}
    places |= {"conv_up1": "3", "conv_up2": "6"}
    if path in places:
        return f"model.{places[path]}.{attribute}"
    _, block, dense, conv = path.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{attribute}"


def enlarged(t, x, fold=1, doublings=2):
    """The picture ``[N, C, H, W]`` in [0, 1] of another, as section 3.1 has it."""

    def convolved(path, x):
        return F.conv2d(x, t[f"{path}.weight"], t[f"{path}.bias"], padding=1)

    if fold > 1:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // fold, fold, w // fold, fold).permute(0, 1, 3, 5, 2, 4)
        x = x.reshape(n, c * fold**2, h // fold, w // fold)
    first = convolved("conv_first", x)
    x = first
    for block in range(BLOCKS):
        before = x
        for dense in range(1, 4):
            parts = [x]
            for i in range(1, 5):
                made = convolved(f"body.{block}.rdb{dense}.conv{i}", torch.cat(parts, 1))
                parts.append(F.leaky_relu(made, 0.2))
            x = x + 0.2 * convolved(f"body.{block}.rdb{dense}.conv5", torch.cat(parts, 1))
        x = before + 0.2 * x
    x = first + convolved("conv_body", x)
    for i in range(1, doublings + 1):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.leaky_relu(convolved(f"conv_up{i}", x), 0.2)
    return convolved("conv_last", F.leaky_relu(convolved("conv_hr", x), 0.2))


def weights(**said):
    return drawn(rrdb_shapes(**said), scale=0.15)


def pictures(channels=3):
    image = torch.from_numpy(probe_images(range(2), 12, channels)[:, :8].copy())
    return image, image.double().permute(0, 3, 1, 2) / 255


def test_params_ema_make_the_pictures_of_their_weights_four_times_as_large(tmp_path):
    tensors = weights()
    torch.save({"params_ema": tensors, "params": weights()}, tmp_path / "x4plus.pth")
    best, model = imported(tmp_path / "x4plus.pth", tmp_path / "models", UserOptions(side=16))
    assert (best.format.name, best.network.name) == ("rrdb", "params_ema")
    assert (model.manifest.task, model.manifest.input.factor) == ("upscale", 4)
    image, x = pictures()
    expected = to_levels(2 * enlarged(doubles(tensors), x) - 1)
    assert expected.std() > 10
    made = model.run("generator", {"image": image.numpy()})["pixels"]
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("said", "fold", "renamed"),
    [
        ({}, 1, as_2018),
        ({}, 1, as_2019),
        ({"seen": 12}, 2, str),
        ({"seen": 48}, 4, as_2019),
        ({"seen": 1, "made": 1}, 1, as_2018),
    ],
)
def test_each_generation_of_names_and_each_factor_is_the_same_function(
    tmp_path, said, fold, renamed
):
    tensors = weights(**said)
    torch.save({renamed(name): value for name, value in tensors.items()}, tmp_path / "x.pth")
    best = recognised(tmp_path / "x.pth")
    given = best.converted.input
    assert (given.factor, given.multiple) == (4 // fold, fold)
    assert best.converted.task == ("translate" if fold == 4 else "upscale")
    image, x = pictures(said.get("made", 3))
    expected = 2 * enlarged(doubles(tensors), x, fold) - 1
    assert expected.std() > 0.1
    assert (remade(best, image=image) - expected).abs().max() < 1e-4


def test_one_missing_layer_is_named(tmp_path):
    tensors = weights()
    del tensors["body.1.rdb2.conv3.weight"]
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(ModelImportError, match=r"RRDB.*body\.1\.rdb2\.conv3\.weight is missing"):
        recognised(tmp_path / "x.pth")
