"""pix2pix checkpoints, against a reference written from the published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.unet import unet_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.options import UserOptions


def reference_output(t, x, statistics="picture", path="model.model", *, outermost=True):
    def conv(index, x, run):
        weight, bias = t[f"{path}.{index}.weight"], t.get(f"{path}.{index}.bias")
        return run(x, weight, bias, stride=2, padding=1)

    def normalized(index, x):
        scale, shift = t.get(f"{path}.{index}.weight"), t.get(f"{path}.{index}.bias")
        if statistics == "running":
            mean, var = (t[f"{path}.{index}.running_{name}"] for name in ("mean", "var"))
            return F.batch_norm(x, mean, var, scale, shift)
        # Batch normalization of one image with its own statistics.
        rows = [F.batch_norm(row[None], None, None, scale, shift, training=True) for row in x]
        return torch.cat(rows)

    if outermost:
        inner = reference_output(
            t, conv(0, x, F.conv2d), statistics, f"{path}.1.model", outermost=False
        )
        return torch.tanh(conv(3, F.relu(inner), F.conv_transpose2d))
    y = conv(1, F.leaky_relu(x, 0.2), F.conv2d)
    if f"{path}.3.model.1.weight" in t:
        y = reference_output(t, normalized(2, y), statistics, f"{path}.3.model", outermost=False)
        y = normalized(6, conv(5, F.relu(y), F.conv_transpose2d))
    else:
        y = normalized(4, conv(3, F.relu(y), F.conv_transpose2d))
    return torch.cat([x, y], 1)


def weights(levels, **variant):
    tensors = random_tensors(unet_shapes(levels, **variant), scale=0.3)
    tensors["model.model.3.weight"] = tensors["model.model.3.weight"] * 0.3
    return tensors


def probe_inputs(side, channels=3):
    image = torch.from_numpy(probe_images(range(2), side, channels))
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_served_outputs_match_reference_row_by_row(tmp_path):
    tensors = weights(7, instance=False, dropout=False)
    torch.save(tensors, tmp_path / "latest_net_G.pth")
    best, model = import_checkpoint(tmp_path / "latest_net_G.pth", tmp_path / "models")
    assert best.format.name == "pix2pix-unet"
    assert (model.manifest.input.multiple, model.manifest.input.side) == (128, 128)
    image, x = probe_inputs(128)
    expected = to_levels(reference_output(to_float64(tensors), x))
    assert expected.std() > 20
    outputs = model.run("generator", {"image": image.numpy()})["pixels"]
    assert np.abs(outputs.astype(int) - expected).max() <= 1
    for i in range(2):
        single = model.run("generator", {"image": image[i : i + 1].numpy()})["pixels"]
        assert np.array_equal(single[0], outputs[i])


@pytest.mark.parametrize(
    ("levels", "variant", "statistics"),
    [
        (8, {"instance": False}, "picture"),
        (7, {"instance": False, "in_channels": 1, "out_channels": 4}, "running"),
        (7, {"instance": True, "in_channels": 3, "out_channels": 1}, None),
    ],
)
def test_layout_variants_match_reference(tmp_path, levels, variant, statistics):
    # Dropout has no tensors and is the last layer of its block, so it does not change any name.
    tensors = weights(levels, dropout=True, **variant)
    torch.save(tensors, tmp_path / "net_G.pth")
    best = recognize(tmp_path / "net_G.pth", UserOptions(statistics=statistics))
    assert dict(best.converted.details)["levels"] == str(levels)
    image, x = probe_inputs(2**levels, variant.get("in_channels", 3))
    expected = reference_output(to_float64(tensors), x, statistics or "picture")
    assert expected.std() > 0.1
    assert (converted_images(best, image=image) - expected).abs().max() < 2e-3
