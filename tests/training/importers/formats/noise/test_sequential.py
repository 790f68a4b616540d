"""DCGANs and multilayer perceptrons, compared with reference implementations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoint_layouts.sequential import NORM, dcgan_shapes, mlp_shapes
from tests.support.checkpoints import (
    converted_images,
    import_checkpoint,
    random_tensors,
    recognize,
    to_float64,
    to_levels,
)
from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.options import UserOptions


def dcgan_reference(t, z, gap=3, act=F.relu):
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
    latents = torch.from_numpy(seeds.draw(range(count), z))
    return latents, latents.double()


@pytest.mark.parametrize(
    ("z", "widths", "channels", "variant"),
    [
        (100, (16, 8, 4, 2), 3, {}),
        (5, (6, 4), 1, {"bias": True}),
        (12, (8, 8, 4, 4, 4), 4, {"gap": 4}),
        (12, (8, 4), 3, {"first": 7, "bias": True, "normalized": False}),
    ],
    ids=["as published", "shallow, with biases", "deep, with dropout", "from 7x7, without norms"],
)
def test_dcgan_variants_match_reference(tmp_path, z, widths, channels, variant):
    # Dropout has no tensors; it only leaves a gap in the numbering.
    tensors = random_tensors(dcgan_shapes(z, widths, channels, **variant), seed=1, scale=0.6)
    torch.save({f"_orig_mod.module.{name}": t for name, t in tensors.items()}, tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth")
    assert best.format.name == "dcgan"
    side = variant.get("first", 4) * 2 ** len(widths)
    assert (best.converted.image.height, best.converted.image.channels) == (side, channels)
    assert best.converted.latent.dimension == z
    feeds, z = noise(z)
    expected = dcgan_reference(to_float64(tensors), z, variant.get("gap", 3))
    assert expected.std() > 0.1
    assert (converted_images(best, z=feeds) - expected).abs().max() < 1e-4


def test_activation_option_replaces_default_activation(tmp_path):
    tensors = random_tensors(dcgan_shapes(6, (6, 4), 3), scale=0.5)
    torch.save(tensors, tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth", UserOptions(activation="leaky_relu"))
    feeds, z = noise(6)
    expected = dcgan_reference(to_float64(tensors), z, act=lambda x: F.leaky_relu(x, 0.2))
    assert (converted_images(best, z=feeds) - expected).abs().max() < 1e-4
    with pytest.raises(ImportOptionError, match="relu, leaky_relu, elu, selu"):
        recognize(tmp_path / "g.pth", UserOptions(activation="softplus"))


def test_rejects_dcgan_with_attention(tmp_path):
    tensors = random_tensors(dcgan_shapes(6, (6, 4), 3))
    tensors["main.2.gamma"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "g.pth")
    with pytest.raises(ModelImportError, match=r"main\.2\.gamma"):
        recognize(tmp_path / "g.pth")


def mlp_reference(t, z, act, channels, side):
    x = z
    linear = [name[:-7] for name in t if name.endswith("weight") and t[name].ndim == 2]
    for i, path in enumerate(linear):
        x = F.linear(act(x) if i else x, t[f"{path}.weight"], t[f"{path}.bias"])
        prefix, _, index = path.rpartition(".")
        norm = f"{prefix}.{int(index) + 1}"
        if f"{norm}.running_var" in t:
            scale, shift, mean, var = (t[f"{norm}.{name}"] for name in NORM)
            x = F.batch_norm(x, mean, var, scale, shift)
    return x.reshape(-1, channels, side, side)


def test_mlp_matches_reference(tmp_path):
    tensors = random_tensors(mlp_shapes([7, 16, 24, 10 * 10 * 3], normalized=(24,)), scale=0.3)
    torch.save({"generator": tensors}, tmp_path / "gan.ckpt")
    options = UserOptions(activation="leaky_relu", output="sigmoid", latent="uniform")
    best, model = import_checkpoint(tmp_path / "gan.ckpt", tmp_path / "models", options)
    assert best.format.name == "mlp"
    assert model.manifest.latent.distribution == "uniform"
    z = torch.from_numpy(seeds.draw([0, 4], 7, "uniform")).double()
    outputs = mlp_reference(to_float64(tensors), z, lambda x: F.leaky_relu(x, 0.2), 3, 10)
    expected = to_levels(2 * torch.sigmoid(outputs) - 1)
    assert expected.std() > 20
    assert np.abs(model.generate([0, 4]).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("values", "channels", "side"), [(784, 1, 28), (1024, 4, 16)])
def test_infers_image_shape_of_mlp(tmp_path, values, channels, side):
    tensors = random_tensors(mlp_shapes([9, 12, values]), scale=0.3)
    torch.save(tensors, tmp_path / "g.pth")
    with pytest.raises(ImportOptionError, match="--side and --channels"):
        recognize(tmp_path / "g.pth", UserOptions(side=11, channels=channels))
    best = recognize(
        tmp_path / "g.pth", UserOptions(channels=channels, classes=2, class_names=("a", "b"))
    )
    assert (best.converted.image.height, best.converted.image.channels) == (side, channels)
    assert (best.converted.latent.dimension, best.converted.classes) == (7, ("a", "b"))
    feeds, z = noise(7)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    inputs = torch.cat([z, weights.double()], 1)
    expected = torch.tanh(mlp_reference(to_float64(tensors), inputs, F.relu, channels, side))
    images = converted_images(best, z=feeds, class_weights=weights)
    assert (images - expected).abs().max() < 1e-4
