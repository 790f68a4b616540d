"""SRGAN checkpoints, against a reference written from the published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.srgan import srgan_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.options import UserOptions


def reference_output(t, x, blocks, doublings):
    def conv(path, x):
        weight = t[f"{path}.weight"]
        return F.conv2d(x, weight, t[f"{path}.bias"], padding=weight.shape[2] // 2)

    def batch_norm(path, x):
        mean, var = t[f"{path}.running_mean"], t[f"{path}.running_var"]
        return F.batch_norm(x, mean, var, t[f"{path}.weight"], t[f"{path}.bias"])

    def prelu(path, x):
        return torch.where(x > 0, x, x * t[f"{path}.weight"])

    first = x = prelu("block1.1", conv("block1.0", x))
    for i in range(2, blocks + 2):
        y = batch_norm(f"block{i}.bn1", conv(f"block{i}.conv1", x))
        y = prelu(f"block{i}.prelu", y)
        x = x + batch_norm(f"block{i}.bn2", conv(f"block{i}.conv2", y))
    path = f"block{blocks + 2}"
    x = conv(f"{path}.0", x)
    x = batch_norm(f"{path}.1", x) if f"{path}.1.running_var" in t else prelu(f"{path}.1", x)
    x = first + x
    for i in range(doublings):
        x = conv(f"block{blocks + 3}.{i}.conv", x)
        n, c, h, w = x.shape
        x = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        x = prelu(f"block{blocks + 3}.{i}.prelu", x.reshape(n, c // 4, 2 * h, 2 * w))
    return torch.tanh(conv(f"block{blocks + 3}.{doublings}", x))


def probe_inputs():
    image = torch.from_numpy(probe_images(range(2), 12, 3)[:, :8].copy())
    return image, image.double().permute(0, 3, 1, 2) / 255


def weights(*args, **variant):
    return random_tensors(srgan_shapes(*args, **variant), scale=0.15)


def test_served_outputs_match_reference(tmp_path):
    tensors = weights()
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "netG.pth")
    best, model = import_checkpoint(
        tmp_path / "netG.pth", tmp_path / "models", UserOptions(side=16)
    )
    assert (best.format.name, model.manifest.input.factor) == ("srgan", 2)
    image, x = probe_inputs()
    # The network's output is (tanh + 1) / 2; images in [-1, 1] are the tanh itself.
    expected = to_levels(reference_output(to_float64(tensors), x, 2, 1))
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert expected.std() > 10
    assert np.abs(outputs.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("blocks", "doublings", "normalized"), [(5, 2, True), (1, 3, False)])
def test_infers_numbers_of_blocks_and_doublings(tmp_path, blocks, doublings, normalized):
    tensors = weights(blocks, doublings, normalized=normalized)
    torch.save(tensors, tmp_path / "netG.pth")
    best = recognize(tmp_path / "netG.pth")
    details = dict(best.converted.details)
    assert (details["factor"], details["blocks"]) == (str(2**doublings), str(blocks))
    image, x = probe_inputs()
    expected = reference_output(to_float64(tensors), x, blocks, doublings)
    assert expected.std() > 0.05
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-4
