"""AnimeGANv2 checkpoints, against a reference written from the published layout."""

import numpy as np
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.formats.base import UserOptions

WIDTH = 2
# Fan-in and width (in units of WIDTH), kernel and stride of each `ConvNormLReLU`.
PLAIN = {
    "block_a.0": (None, 1, 7, 1),
    "block_a.1": (1, 2, 3, 2),
    "block_a.2": (2, 2, 3, 1),
    "block_b.0": (2, 4, 3, 2),
    "block_b.1": (4, 4, 3, 1),
    "block_c.0": (4, 4, 3, 1),
    "block_d.0": (4, 4, 3, 1),
    "block_d.1": (4, 4, 3, 1),
    "block_e.0": (4, 2, 3, 1),
    "block_e.1": (2, 2, 3, 1),
    "block_e.2": (2, 1, 7, 1),
}


def anime_shapes(blocks=4, channels=3):
    """`Generator` of animegan2-pytorch."""
    shapes = {}

    def normed(path, width):
        shapes[f"{path}.weight"] = shapes[f"{path}.bias"] = (width,)

    def plain(path, fan_in, width, size):
        shapes[f"{path}.1.weight"] = (width, fan_in, size, size)
        normed(f"{path}.2", width)

    for path, (fan_in, width, size, _) in PLAIN.items():
        if path == "block_d.0":
            for i in range(1, blocks + 1):
                before, inner = (4 if i == 1 else 8) * WIDTH, (8 if i == 1 else 16) * WIDTH
                plain(f"block_c.{i}.layers.0", before, inner, 1)
                shapes[f"block_c.{i}.layers.1.1.weight"] = (inner, 1, 3, 3)
                shapes[f"block_c.{i}.layers.1.1.bias"] = (inner,)
                normed(f"block_c.{i}.layers.1.2", inner)
                shapes[f"block_c.{i}.layers.2.weight"] = (8 * WIDTH, inner, 1, 1)
                normed(f"block_c.{i}.layers.3", 8 * WIDTH)
            plain(f"block_c.{blocks + 1}", 8 * WIDTH, 4 * WIDTH, 3)
        plain(path, channels if fan_in is None else fan_in * WIDTH, width * WIDTH, size)
    shapes["out_layer.0.weight"] = (channels, WIDTH, 1, 1)
    return shapes


def reference_output(t, x, blocks=4):
    def normal(path, x):
        """Layer normalization over channels and pixels."""
        mean = x.mean((1, 2, 3), keepdim=True)
        var = x.var((1, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        return x * t[f"{path}.weight"][:, None, None] + t[f"{path}.bias"][:, None, None]

    def plain(path, x, stride=1, groups=1):
        weight = t[f"{path}.1.weight"]
        by = weight.shape[2] // 2
        pads = (0, 1, 0, 1) if stride == 2 else (by, by, by, by)
        x = F.pad(x, pads, mode="reflect") if by else x
        x = F.conv2d(x, weight, t.get(f"{path}.1.bias"), stride, groups=groups)
        return F.leaky_relu(normal(f"{path}.2", x), 0.2)

    def series(name, x):
        for path, (*_, stride) in PLAIN.items():
            x = plain(path, x, stride) if path.startswith(name) else x
        return x

    def resize_like(x, reference):
        return F.interpolate(x, reference.shape[2:], mode="bilinear", align_corners=True)

    half = series("block_a", x)
    y = plain("block_c.0", series("block_b", half))
    for i in range(1, blocks + 1):
        path = f"block_c.{i}.layers"
        inner = plain(f"{path}.0", y)
        inner = plain(f"{path}.1", inner, groups=inner.shape[1])
        inner = normal(f"{path}.3", F.conv2d(inner, t[f"{path}.2.weight"]))
        y = y + inner if y.shape[1] == inner.shape[1] else inner
    y = plain(f"block_c.{blocks + 1}", y)
    y = series("block_d", resize_like(y, half))
    y = series("block_e", resize_like(y, x))
    return torch.tanh(F.conv2d(y, t["out_layer.0.weight"]))


def probe_inputs():
    image = torch.from_numpy(probe_images(range(2), 24, 3)[:, :20].copy())
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


def test_served_outputs_match_reference(tmp_path):
    tensors = drawn(anime_shapes(1), scale=0.5)
    torch.save(tensors, tmp_path / "paprika.pt")
    best, model = imported(tmp_path / "paprika.pt", tmp_path / "models", UserOptions(side=16))
    assert best.format.name == "animegan2"
    assert (model.manifest.task, model.manifest.input.multiple) == ("translate", 4)
    image, x = probe_inputs()
    expected = to_levels(reference_output(doubles(tensors), x, 1))
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert expected.std() > 20
    assert np.abs(outputs.astype(int) - expected).max() <= 1


def test_published_number_of_blocks(tmp_path):
    tensors = drawn(anime_shapes(), scale=0.5)
    torch.save(tensors, tmp_path / "face_paint_512_v2.pt")
    best = recognised(tmp_path / "face_paint_512_v2.pt")
    assert dict(best.converted.details) == {"inverted residual blocks": "4", "width": "2"}
    image, x = probe_inputs()
    expected = reference_output(doubles(tensors), x)
    assert (remade(best, image=image) - expected).abs().max() < 1e-3
