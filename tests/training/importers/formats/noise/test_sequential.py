"""DCGANs and perceptrons: chains of layers, whatever they are called or stands between."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoints import doubles, drawn, imported, recognised, remade, to_levels
from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.formats.base import UserOptions

NORM = ("weight", "bias", "running_mean", "running_var")


def dcgan_shapes(z, widths, channels, *, gap=3, first=4, biased=False, normed=True):
    """The generator of PyTorch's DCGAN example; `gap` places from a convolution to the next."""
    shapes, before = {}, z
    for i, width in enumerate((*widths, channels)):
        size = first if i == 0 else 4
        shapes[f"main.{gap * i}.weight"] = (before, width, size, size)
        if biased:
            shapes[f"main.{gap * i}.bias"] = (width,)
        if i < len(widths) and normed:
            shapes |= {f"main.{gap * i + 1}.{name}": (width,) for name in NORM}
            shapes[f"main.{gap * i + 1}.num_batches_tracked"] = ()
        before = width
    return shapes


def pictures(t, z, gap=3, act=F.relu):
    x, i = z[:, :, None, None], 0
    while (path := f"main.{gap * i}") + ".weight" in t:
        step = {"stride": 2, "padding": 1} if i else {}
        x = act(x) if i else x
        x = F.conv_transpose2d(x, t[f"{path}.weight"], t.get(f"{path}.bias"), **step)
        norm = f"main.{gap * i + 1}"
        if f"{norm}.running_var" in t:
            scale, shift, mean, var = (t[f"{norm}.{name}"] for name in NORM)
            x = F.batch_norm(x, mean, var, scale, shift)
        i += 1
    return torch.tanh(x)


def noise(z, count=3):
    drawn = torch.from_numpy(seeds.draw(range(count), z))
    return drawn, drawn.double()


@pytest.mark.parametrize(
    ("z", "widths", "channels", "how"),
    [
        (100, (16, 8, 4, 2), 3, {}),
        (5, (6, 4), 1, {"biased": True}),
        (12, (8, 8, 4, 4, 4), 4, {"gap": 4}),
        (12, (8, 4), 3, {"first": 7, "biased": True, "normed": False}),
    ],
    ids=["as published", "shallow, with biases", "deep, with dropout", "from 7x7, without norms"],
)
def test_a_dcgan_of_any_depth_is_the_same_function(tmp_path, z, widths, channels, how):
    # Dropout between the blocks leaves no trace but a gap in the places.
    tensors = drawn(dcgan_shapes(z, widths, channels, **how), seed=1, scale=0.6)
    torch.save({f"_orig_mod.module.{name}": t for name, t in tensors.items()}, tmp_path / "g.pth")
    best = recognised(tmp_path / "g.pth")
    assert best.format.name == "dcgan"
    side = how.get("first", 4) * 2 ** len(widths)
    assert (best.converted.image.height, best.converted.image.channels) == (side, channels)
    assert best.converted.latent.dimension == z
    feeds, z = noise(z)
    expected = pictures(doubles(tensors), z, how.get("gap", 3))
    assert expected.std() > 0.1
    assert (remade(best, z=feeds) - expected).abs().max() < 1e-4


def test_another_activation_between_the_blocks_is_said(tmp_path):
    tensors = drawn(dcgan_shapes(6, (6, 4), 3), scale=0.5)
    torch.save(tensors, tmp_path / "g.pth")
    best = recognised(tmp_path / "g.pth", UserOptions(activation="leaky_relu"))
    feeds, z = noise(6)
    expected = pictures(doubles(tensors), z, act=lambda x: F.leaky_relu(x, 0.2))
    assert (remade(best, z=feeds) - expected).abs().max() < 1e-4
    with pytest.raises(ImportOptionError, match="relu, leaky_relu, elu, selu"):
        recognised(tmp_path / "g.pth", UserOptions(activation="softplus"))


def test_attention_within_a_dcgan_is_not_left_out_in_silence(tmp_path):
    tensors = drawn(dcgan_shapes(6, (6, 4), 3))
    tensors["main.2.gamma"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "g.pth")
    with pytest.raises(ModelImportError, match=r"main\.2\.gamma"):
        recognised(tmp_path / "g.pth")


def mlp_shapes(sizes, *, normed=()):
    shapes, place = {}, 0
    for fan_in, width in pairwise(sizes):
        shapes[f"model.{place}.weight"] = (width, fan_in)
        shapes[f"model.{place}.bias"] = (width,)
        place += 1
        if width in normed:
            shapes |= {f"model.{place}.{name}": (width,) for name in NORM}
            shapes[f"model.{place}.num_batches_tracked"] = ()
            place += 1
        place += 1
    return shapes


def perceived(t, z, act, channels, side):
    x = z
    linear = [name[:-7] for name in t if name.endswith("weight") and t[name].ndim == 2]
    for i, path in enumerate(linear):
        x = F.linear(act(x) if i else x, t[f"{path}.weight"], t[f"{path}.bias"])
        prefix, _, place = path.rpartition(".")
        norm = f"{prefix}.{int(place) + 1}"
        if f"{norm}.running_var" in t:
            scale, shift, mean, var = (t[f"{norm}.{name}"] for name in NORM)
            x = F.batch_norm(x, mean, var, scale, shift)
    return x.reshape(-1, channels, side, side)


def test_a_perceptron_makes_the_pictures_of_its_weights(tmp_path):
    tensors = drawn(mlp_shapes([7, 16, 24, 10 * 10 * 3], normed=(24,)), scale=0.3)
    torch.save({"generator": tensors}, tmp_path / "gan.ckpt")
    said = UserOptions(activation="leaky_relu", output="sigmoid", latent="uniform")
    best, model = imported(tmp_path / "gan.ckpt", tmp_path / "models", said)
    assert best.format.name == "mlp"
    assert model.manifest.latent.distribution == "uniform"
    z = torch.from_numpy(seeds.draw([0, 4], 7, "uniform")).double()
    made = perceived(doubles(tensors), z, lambda x: F.leaky_relu(x, 0.2), 3, 10)
    expected = to_levels(2 * torch.sigmoid(made) - 1)
    assert expected.std() > 20
    assert np.abs(model.generate([0, 4]).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("values", "channels", "side"), [(784, 1, 28), (1024, 4, 16)])
def test_a_perceptrons_picture_is_told_by_its_values(tmp_path, values, channels, side):
    tensors = drawn(mlp_shapes([9, 12, values]), scale=0.3)
    torch.save(tensors, tmp_path / "g.pth")
    with pytest.raises(ImportOptionError, match="--side and --channels"):
        recognised(tmp_path / "g.pth", UserOptions(side=11, channels=channels))
    best = recognised(
        tmp_path / "g.pth", UserOptions(channels=channels, classes=2, class_names=("a", "b"))
    )
    assert (best.converted.image.height, best.converted.image.channels) == (side, channels)
    assert (best.converted.latent.dimension, best.converted.classes) == (7, ("a", "b"))
    feeds, z = noise(7)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    joined = torch.cat([z, weights.double()], 1)
    expected = torch.tanh(perceived(doubles(tensors), joined, F.relu, channels, side))
    made = remade(best, z=feeds, class_weights=weights)
    assert (made - expected).abs().max() < 1e-4
