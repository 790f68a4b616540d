"""AnimeGANv2 checkpoints, against a reference written from the published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.animegan import LAYERS, anime_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.options import UserOptions


def reference_output(t, x, blocks=4):
    def layer_norm(path, x):
        """Layer normalization over channels and pixels."""
        mean = x.mean((1, 2, 3), keepdim=True)
        var = x.var((1, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        return x * t[f"{path}.weight"][:, None, None] + t[f"{path}.bias"][:, None, None]

    def conv_norm(path, x, stride=1, groups=1):
        weight = t[f"{path}.1.weight"]
        pad = weight.shape[2] // 2
        pads = (0, 1, 0, 1) if stride == 2 else (pad, pad, pad, pad)
        x = F.pad(x, pads, mode="reflect") if pad else x
        x = F.conv2d(x, weight, t.get(f"{path}.1.bias"), stride, groups=groups)
        return F.leaky_relu(layer_norm(f"{path}.2", x), 0.2)

    def series(name, x):
        for path, (*_, stride) in LAYERS.items():
            x = conv_norm(path, x, stride) if path.startswith(name) else x
        return x

    def resize_like(x, reference):
        return F.interpolate(x, reference.shape[2:], mode="bilinear", align_corners=True)

    half = series("block_a", x)
    y = conv_norm("block_c.0", series("block_b", half))
    for i in range(1, blocks + 1):
        path = f"block_c.{i}.layers"
        inner = conv_norm(f"{path}.0", y)
        inner = conv_norm(f"{path}.1", inner, groups=inner.shape[1])
        inner = layer_norm(f"{path}.3", F.conv2d(inner, t[f"{path}.2.weight"]))
        y = y + inner if y.shape[1] == inner.shape[1] else inner
    y = conv_norm(f"block_c.{blocks + 1}", y)
    y = series("block_d", resize_like(y, half))
    y = series("block_e", resize_like(y, x))
    return torch.tanh(F.conv2d(y, t["out_layer.0.weight"]))


def probe_inputs():
    image = torch.from_numpy(probe_images(range(2), 24, 3)[:, :20].copy())
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_served_outputs_match_reference(tmp_path):
    tensors = random_tensors(anime_shapes(1), scale=0.5)
    torch.save(tensors, tmp_path / "paprika.pt")
    best, model = import_checkpoint(
        tmp_path / "paprika.pt", tmp_path / "models", UserOptions(side=16)
    )
    assert best.format.name == "animegan2"
    assert (model.manifest.task, model.manifest.input.multiple) == ("translate", 4)
    image, x = probe_inputs()
    expected = to_levels(reference_output(to_float64(tensors), x, 1))
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert expected.std() > 20
    assert np.abs(outputs.astype(int) - expected).max() <= 1


def test_published_number_of_blocks_matches_reference(tmp_path):
    tensors = random_tensors(anime_shapes(), scale=0.5)
    torch.save(tensors, tmp_path / "face_paint_512_v2.pt")
    best = recognize(tmp_path / "face_paint_512_v2.pt")
    assert dict(best.converted.details) == {"inverted residual blocks": "4", "width": "2"}
    image, x = probe_inputs()
    expected = reference_output(to_float64(tensors), x)
    assert (converted_images(best, image=image) - expected).abs().max() < 1e-3
