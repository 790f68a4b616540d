"""Real-ESRGAN compact checkpoints, against a reference written from the published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.compact import compact_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.options import UserOptions


def reference_output(t, x, factor):
    n, c, h, w = x.shape
    y, i = x, 0
    while f"body.{i}.weight" in t:
        weight = t[f"body.{i}.weight"]
        if i % 2:
            y = torch.where(y > 0, y, y * weight[:, None, None])
        else:
            y = F.conv2d(y, weight, t[f"body.{i}.bias"], padding=1)
        i += 1
    y = y.reshape(n, c, factor, factor, h, w).permute(0, 1, 4, 2, 5, 3)
    y = y.reshape(n, c, h * factor, w * factor)
    return y + x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def probe_inputs(channels=3):
    image = torch.from_numpy(probe_images(range(2), 12, channels)[:, :8].copy())
    return image, image.double().permute(0, 3, 1, 2) / 255


def test_served_outputs_match_reference(tmp_path):
    tensors = random_tensors(compact_shapes(), scale=0.2)
    torch.save({"params": tensors}, tmp_path / "x4v3.pth")
    best, model = import_checkpoint(
        tmp_path / "x4v3.pth", tmp_path / "models", UserOptions(side=16)
    )
    assert best.format.name == "compact"
    image, x = probe_inputs()
    expected = to_levels(2 * reference_output(to_float64(tensors), x, 4) - 1)
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert expected.std() > 20
    assert np.abs(outputs.astype(int) - expected).max() <= 1
    # The measured receptive field is bounded by the number of convolutions.
    assert model.manifest.input.reach <= 5


@pytest.mark.parametrize(("factor", "channels"), [(2, 3), (3, 1), (1, 4)])
def test_infers_factor_and_channels(tmp_path, factor, channels):
    tensors = random_tensors(compact_shapes(2, factor, channels), scale=0.2)
    torch.save(tensors, tmp_path / "x.pth")
    best = recognize(tmp_path / "x.pth")
    assert best.converted.input.factor == factor
    assert best.converted.task == ("upscale" if factor > 1 else "translate")
    image, x = probe_inputs(channels)
    expected = 2 * reference_output(to_float64(tensors), x, factor) - 1
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-4
