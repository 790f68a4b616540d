"""SRGAN's generator, written out from its published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.formats.base import UserOptions

WIDTH = 4


def srgan_shapes(blocks=2, doublings=1, *, normalised=False):
    """`Generator` of leftthomas' SRGAN."""
    shapes = {}

    def convolution(path, fan_in, width, size):
        shapes[f"{path}.weight"] = (width, fan_in, size, size)
        shapes[f"{path}.bias"] = (width,)

    def normal(path):
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{path}.{name}"] = (WIDTH,)
        shapes[f"{path}.num_batches_tracked"] = ()

    convolution("block1.0", 3, WIDTH, 9)
    shapes["block1.1.weight"] = (1,)
    for i in range(2, blocks + 2):
        convolution(f"block{i}.conv1", WIDTH, WIDTH, 3)
        normal(f"block{i}.bn1")
        shapes[f"block{i}.prelu.weight"] = (1,)
        convolution(f"block{i}.conv2", WIDTH, WIDTH, 3)
        normal(f"block{i}.bn2")
    convolution(f"block{blocks + 2}.0", WIDTH, WIDTH, 3)
    if normalised:
        normal(f"block{blocks + 2}.1")
    else:
        shapes[f"block{blocks + 2}.1.weight"] = (1,)
    for i in range(doublings):
        convolution(f"block{blocks + 3}.{i}.conv", WIDTH, 4 * WIDTH, 3)
        shapes[f"block{blocks + 3}.{i}.prelu.weight"] = (1,)
    convolution(f"block{blocks + 3}.{doublings}", WIDTH, 3, 9)
    return shapes


def enlarged(t, x, blocks, doublings):
    def convolved(path, x):
        weight = t[f"{path}.weight"]
        return F.conv2d(x, weight, t[f"{path}.bias"], padding=weight.shape[2] // 2)

    def normal(path, x):
        mean, var = t[f"{path}.running_mean"], t[f"{path}.running_var"]
        return F.batch_norm(x, mean, var, t[f"{path}.weight"], t[f"{path}.bias"])

    def sloped(path, x):
        return torch.where(x > 0, x, x * t[f"{path}.weight"])

    first = x = sloped("block1.1", convolved("block1.0", x))
    for i in range(2, blocks + 2):
        y = normal(f"block{i}.bn1", convolved(f"block{i}.conv1", x))
        y = sloped(f"block{i}.prelu", y)
        x = x + normal(f"block{i}.bn2", convolved(f"block{i}.conv2", y))
    path = f"block{blocks + 2}"
    x = convolved(f"{path}.0", x)
    x = normal(f"{path}.1", x) if f"{path}.1.running_var" in t else sloped(f"{path}.1", x)
    x = first + x
    for i in range(doublings):
        x = convolved(f"block{blocks + 3}.{i}.conv", x)
        n, c, h, w = x.shape
        x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        x = sloped(f"block{blocks + 3}.{i}.prelu", x.reshape(n, c // 4, 2 * h, 2 * w))
    return torch.tanh(convolved(f"block{blocks + 3}.{doublings}", x))


def pictures():
    image = torch.from_numpy(probe_images(range(2), 12, 3)[:, :8].copy())
    return image, image.double().permute(0, 3, 1, 2) / 255


def weights(*args, **said):
    return drawn(srgan_shapes(*args, **said), scale=0.15)


def test_an_srgan_makes_the_pictures_of_its_weights(tmp_path):
    tensors = weights()
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "netG.pth")
    best, model = imported(tmp_path / "netG.pth", tmp_path / "models", UserOptions(side=16))
    assert (best.format.name, model.manifest.input.factor) == ("srgan", 2)
    image, x = pictures()
    # The layout's tanh is mapped to [0, 1], as (tanh + 1) / 2.
    expected = to_levels(enlarged(doubles(tensors), x, 2, 1))
    made = model.run("generator", {"image": image.numpy()})["pixels"]
    assert expected.std() > 10
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("blocks", "doublings", "normalised"), [(5, 2, True), (1, 3, False)])
def test_blocks_and_doublings_are_counted(tmp_path, blocks, doublings, normalised):
    tensors = weights(blocks, doublings, normalised=normalised)
    torch.save(tensors, tmp_path / "netG.pth")
    best = recognised(tmp_path / "netG.pth")
    details = dict(best.converted.details)
    assert (details["factor"], details["blocks"]) == (str(2**doublings), str(blocks))
    image, x = pictures()
    expected = enlarged(doubles(tensors), x, blocks, doublings)
    assert expected.std() > 0.05
    assert (remade(best, image=image) - expected).abs().max() < 1e-4
