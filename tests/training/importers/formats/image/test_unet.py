"""pix2pix checkpoints, against a reference written from the published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.formats.base import UserOptions

WIDTH = 2


def block_shapes(path, widths, *, instance, dropout, outermost=True, in_channels=3, out_channels=3):
    """Shapes of nested `UnetSkipConnectionBlock`s."""
    own, inner = widths[0], widths[1:]
    shapes = {}

    def convolution(place, shape, *, bias=instance):
        shapes[f"{path}.{place}.weight"] = (*shape, 4, 4)
        if bias:
            shapes[f"{path}.{place}.bias"] = (shape[0] if place == down else shape[1],)

    def normalized(place, width):
        if not instance:
            names = ("weight", "bias", "running_mean", "running_var")
            shapes.update({f"{path}.{place}.{name}": (width,) for name in names})
            shapes[f"{path}.{place}.num_batches_tracked"] = ()

    down = 0 if outermost else 1
    convolution(down, (own, in_channels))
    if outermost:
        shapes |= block_shapes(
            f"{path}.1.model", inner, instance=instance, dropout=dropout,
            outermost=False, in_channels=own, out_channels=own,
        )  # fmt: skip
        convolution(3, (2 * own, out_channels), bias=True)
    elif inner:
        normalized(2, own)
        shapes |= block_shapes(
            f"{path}.3.model", inner, instance=instance, dropout=dropout,
            outermost=False, in_channels=own, out_channels=own,
        )  # fmt: skip
        convolution(5, (2 * own, out_channels))
        normalized(6, out_channels)
    else:
        convolution(3, (own, out_channels))
        normalized(4, out_channels)
    return shapes


def unet_shapes(halvings, **variant):
    """Shapes of `UnetGenerator`: widths double three times, then stay the same."""
    widths = [WIDTH * min(2**i, 8) for i in range(halvings)]
    return block_shapes("model.model", widths, **variant)


def reference_output(t, x, statistics="picture", path="model.model", *, outermost=True):
    def conv(place, x, run):
        weight, bias = t[f"{path}.{place}.weight"], t.get(f"{path}.{place}.bias")
        return run(x, weight, bias, stride=2, padding=1)

    def normalized(place, x):
        scale, shift = t.get(f"{path}.{place}.weight"), t.get(f"{path}.{place}.bias")
        if statistics == "running":
            mean, var = (t[f"{path}.{place}.running_{name}"] for name in ("mean", "var"))
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


def weights(halvings, **variant):
    tensors = drawn(unet_shapes(halvings, **variant), scale=0.3)
    tensors["model.model.3.weight"] = tensors["model.model.3.weight"] * 0.3
    return tensors


def probe_inputs(side, channels=3):
    image = torch.from_numpy(probe_images(range(2), side, channels))
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


def test_served_outputs_match_reference_row_by_row(tmp_path):
    tensors = weights(7, instance=False, dropout=False)
    torch.save(tensors, tmp_path / "latest_net_G.pth")
    best, model = imported(tmp_path / "latest_net_G.pth", tmp_path / "models")
    assert best.format.name == "pix2pix-unet"
    assert (model.manifest.input.multiple, model.manifest.input.side) == (128, 128)
    image, x = probe_inputs(128)
    expected = to_levels(reference_output(doubles(tensors), x))
    assert expected.std() > 20
    both = model.run("generator", {"image": image.numpy()})["pixels"]
    assert np.abs(both.astype(int) - expected).max() <= 1
    for i in range(2):
        alone = model.run("generator", {"image": image[i : i + 1].numpy()})["pixels"]
        assert np.array_equal(alone[0], both[i])


@pytest.mark.parametrize(
    ("halvings", "variant", "statistics"),
    [
        (8, {"instance": False}, "picture"),
        (7, {"instance": False, "in_channels": 1, "out_channels": 4}, "running"),
        (7, {"instance": True, "in_channels": 3, "out_channels": 1}, "picture"),
    ],
)
def test_layout_variants(tmp_path, halvings, variant, statistics):
    # Dropout has no tensors and is the last layer of its block: it changes no name.
    tensors = weights(halvings, dropout=True, **variant)
    torch.save(tensors, tmp_path / "net_G.pth")
    best = recognised(tmp_path / "net_G.pth", UserOptions(statistics=statistics))
    assert dict(best.converted.details)["levels"] == str(halvings)
    image, x = probe_inputs(2**halvings, variant.get("in_channels", 3))
    expected = reference_output(doubles(tensors), x, statistics)
    assert expected.std() > 0.1
    assert (remade(best, image=image) - expected).abs().max() < 2e-3
