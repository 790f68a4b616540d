"""pix2pix's U-Nets, written out from their published layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.formats.base import UserOptions

WIDTH = 2


def block_shapes(path, widths, *, instance, dropout, outermost=True, seen=3, made=3):
    """`UnetSkipConnectionBlock`, one in the other: what it takes, and what it gives back."""
    own, inner = widths[0], widths[1:]
    shapes = {}

    def convolution(place, shape, *, bias=instance):
        shapes[f"{path}.{place}.weight"] = (*shape, 4, 4)
        if bias:
            shapes[f"{path}.{place}.bias"] = (shape[0] if place == down else shape[1],)

    def normalised(place, width):
        if not instance:
            names = ("weight", "bias", "running_mean", "running_var")
            shapes.update({f"{path}.{place}.{name}": (width,) for name in names})
            shapes[f"{path}.{place}.num_batches_tracked"] = ()

    down = 0 if outermost else 1
    convolution(down, (own, seen))
    if outermost:
        shapes |= block_shapes(
            f"{path}.1.model", inner, instance=instance, dropout=dropout,
            outermost=False, seen=own, made=own,
        )  # fmt: skip
        convolution(3, (2 * own, made), bias=True)
    elif inner:
        normalised(2, own)
        shapes |= block_shapes(
            f"{path}.3.model", inner, instance=instance, dropout=dropout,
            outermost=False, seen=own, made=own,
        )  # fmt: skip
        convolution(5, (2 * own, made))
        normalised(6, made)
    else:
        convolution(3, (own, made))
        normalised(4, made)
    return shapes


def unet_shapes(halvings, **said):
    """`UnetGenerator`: widths double three times, and are the same from there on."""
    widths = [WIDTH * min(2**i, 8) for i in range(halvings)]
    return block_shapes("model.model", widths, **said)


def translated(t, x, statistics="picture", path="model.model", *, outermost=True):
    def convolved(place, x, run):
        weight, bias = t[f"{path}.{place}.weight"], t.get(f"{path}.{place}.bias")
        return run(x, weight, bias, stride=2, padding=1)

    def normalised(place, x):
        scale, shift = t.get(f"{path}.{place}.weight"), t.get(f"{path}.{place}.bias")
        if statistics == "running":
            mean, var = (t[f"{path}.{place}.running_{name}"] for name in ("mean", "var"))
            return F.batch_norm(x, mean, var, scale, shift)
        # A batch of one picture is normalised by its own statistics.
        rows = [F.batch_norm(row[None], None, None, scale, shift, training=True) for row in x]
        return torch.cat(rows)

    if outermost:
        inner = translated(
            t, convolved(0, x, F.conv2d), statistics, f"{path}.1.model", outermost=False
        )
        return torch.tanh(convolved(3, F.relu(inner), F.conv_transpose2d))
    y = convolved(1, F.leaky_relu(x, 0.2), F.conv2d)
    if f"{path}.3.model.1.weight" in t:
        y = translated(t, normalised(2, y), statistics, f"{path}.3.model", outermost=False)
        y = normalised(6, convolved(5, F.relu(y), F.conv_transpose2d))
    else:
        y = normalised(4, convolved(3, F.relu(y), F.conv_transpose2d))
    return torch.cat([x, y], 1)


def weights(halvings, **said):
    tensors = drawn(unet_shapes(halvings, **said), scale=0.3)
    tensors["model.model.3.weight"] = tensors["model.model.3.weight"] * 0.3
    return tensors


def pictures(side, channels=3):
    image = torch.from_numpy(probe_images(range(2), side, channels))
    return image, (image.double() / 127.5 - 1).permute(0, 3, 1, 2)


def test_a_unet_128_makes_the_pictures_of_its_weights_row_by_row(tmp_path):
    tensors = weights(7, instance=False, dropout=False)
    torch.save(tensors, tmp_path / "latest_net_G.pth")
    best, model = imported(tmp_path / "latest_net_G.pth", tmp_path / "models")
    assert best.format.name == "pix2pix-unet"
    assert (model.manifest.input.multiple, model.manifest.input.side) == (128, 128)
    image, x = pictures(128)
    expected = to_levels(translated(doubles(tensors), x))
    assert expected.std() > 20
    both = model.run("generator", {"image": image.numpy()})["pixels"]
    assert np.abs(both.astype(int) - expected).max() <= 1
    for i in range(2):
        alone = model.run("generator", {"image": image[i : i + 1].numpy()})["pixels"]
        assert np.array_equal(alone[0], both[i])


@pytest.mark.parametrize(
    ("halvings", "said", "statistics"),
    [
        (8, {"instance": False}, "picture"),
        (7, {"instance": False, "seen": 1, "made": 4}, "running"),
        (7, {"instance": True, "seen": 3, "made": 1}, "picture"),
    ],
)
def test_variants_of_the_layout_are_the_same_functions(tmp_path, halvings, said, statistics):
    # Dropout has no tensors, and stands last in its block: no name shows it.
    tensors = weights(halvings, dropout=True, **said)
    torch.save(tensors, tmp_path / "net_G.pth")
    best = recognised(tmp_path / "net_G.pth", UserOptions(statistics=statistics))
    assert dict(best.converted.details)["levels"] == str(halvings)
    image, x = pictures(2**halvings, said.get("seen", 3))
    expected = translated(doubles(tensors), x, statistics)
    assert expected.std() > 0.1
    assert (remade(best, image=image) - expected).abs().max() < 2e-3
