"""DCGANs and multilayer perceptrons, compared with reference implementations."""

import numpy as np
import pytest
import torch
from torch import nn
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
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.noise.transposed import Geometry, doubling, plausible
from training.importers.options import Choices, UserOptions


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


def stated(best):
    """Return the stated properties of a network as (value, source), by name."""
    return {each.name: (each.value, each.source) for each in best.converted.assumptions}


def test_states_what_the_tensors_of_a_dcgan_do_not_determine(tmp_path):
    torch.save(random_tensors(dcgan_shapes(6, (6, 4), 3)), tmp_path / "g.pth")
    assert stated(recognize(tmp_path / "g.pth")) == {
        "layers": ("s1p0,s2p1,s2p1", "assumed"),
        "activation": ("relu", "assumed"),
        "norm_eps": ("1e-05", "assumed"),
        "output": ("tanh", "assumed"),
        "latent": ("normal", "assumed"),
        "norm_order": ("before", "names"),
    }
    options = UserOptions(activation="leaky_relu", assume={"slope": "0.1"}, latent="unit")
    set_by_user = stated(recognize(tmp_path / "g.pth", options))
    assert set_by_user["slope"] == ("0.1", "option")
    assert set_by_user["latent"] == ("unit", "option")


def test_slope_and_eps_change_the_images(tmp_path):
    tensors = random_tensors(dcgan_shapes(6, (6, 4), 3), scale=0.5)
    torch.save(tensors, tmp_path / "g.pth")
    options = UserOptions(activation="leaky_relu", assume={"slope": "0.05", "norm_eps": "0.5"})
    images = converted_images(recognize(tmp_path / "g.pth", options), z=noise(6)[0])
    t, x = to_float64(tensors), noise(6)[1][:, :, None, None]
    for i in range(3):
        x = F.conv_transpose2d(x, t[f"main.{3 * i}.weight"], None, *((2, 1) if i else ()))
        if i < 2:
            scale, shift, mean, var = (t[f"main.{3 * i + 1}.{name}"] for name in NORM)
            x = F.leaky_relu(F.batch_norm(x, mean, var, scale, shift, eps=0.5), 0.05)
    assert (images - torch.tanh(x)).abs().max() < 1e-4


@pytest.mark.parametrize(("gap", "order"), [(1, "before"), (2, "after")])
def test_layer_numbers_tell_where_the_normalization_stands(tmp_path, gap, order):
    sequence = nn.Sequential(
        nn.Linear(5, 8), *([nn.ReLU()] if gap == 2 else []), nn.BatchNorm1d(8),
        *([nn.ReLU()] if gap == 1 else []), nn.Linear(8, 64), nn.Tanh(),
    )  # fmt: skip
    sequence.load_state_dict(random_tensors({n: t.shape for n, t in sequence.state_dict().items()}))
    torch.save(sequence.state_dict(), tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth")
    assert stated(best)["norm_order"][0] == order
    feeds, z = noise(5)
    expected = sequence.double().eval()(z).reshape(-1, 1, 8, 8)
    assert (converted_images(best, z=feeds) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("shapes", [dcgan_shapes(9, (6, 4), 3), mlp_shapes([9, 12, 48])])
def test_class_embedding_is_used_in_the_order_that_the_user_sets(tmp_path, shapes, order):
    tensors = random_tensors({"label_emb.weight": (4, 3)} | shapes, scale=0.5)
    torch.save(tensors, tmp_path / "g.pth")
    with pytest.raises(ImportOptionError, match=r"class_order=after or .*class_order=before"):
        recognize(tmp_path / "g.pth")
    options = UserOptions(assume={"class_order": order}, class_names=("a", "b", "c", "d"))
    best = recognize(tmp_path / "g.pth", options)
    assert best.converted.classes == options.class_names
    assert best.converted.latent.dimension == 6
    feeds, z = noise(6)
    weights = torch.eye(4)[:3]
    label = weights.double() @ tensors["label_emb.weight"].double()
    inputs = torch.cat([z, label] if order == "after" else [label, z], 1)
    t = to_float64(tensors)
    if best.format.name == "dcgan":
        expected = dcgan_reference(t, inputs)
    else:
        del t["label_emb.weight"]
        expected = torch.tanh(mlp_reference(t, inputs, F.relu, 3, 4))
    images = converted_images(best, z=feeds, class_weights=weights)
    assert (images - expected).abs().max() < 1e-4


def test_geometry_doubles_the_side_by_default():
    assert str(doubling([4, 4, 4])) == "s1p0,s2p1,s2p1"
    assert doubling([4, 4, 4, 4, 4]).side == 64
    assert plausible([7, 4, 4]) == [doubling([7, 4, 4])]
    assert doubling([4, 5, 3, 2, 6, 1]).sides == [4, 8, 16, 32, 64, 64]


def test_odd_kernels_need_a_common_side(tmp_path):
    shapes = {"0.weight": (6, 5, 3, 3), "3.weight": (5, 4, 4, 4), "6.weight": (4, 3, 3, 3)}
    shapes |= {"9.weight": (3, 1, 4, 4)}
    tensors = random_tensors(shapes, scale=0.6)
    torch.save(tensors, tmp_path / "g.pth")
    # Doubling leads to 24×24 pixels.
    with pytest.raises(ImportOptionError, match="--assume layers=s1p0,s1p0,s2p0,s2p0"):
        recognize(tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth", UserOptions(assume={"layers": "s2,s1p0,s2,s2p0"}))
    assert best.converted.image.height == 28
    feeds, z = noise(6)
    x = z[:, :, None, None]
    for index, stride in ((0, 2), (3, 1), (6, 2), (9, 2)):
        x = F.relu(x) if index else x
        x = F.conv_transpose2d(x, tensors[f"{index}.weight"].double(), stride=stride)
    assert (converted_images(best, z=feeds) - torch.tanh(x)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 20}, "--side 20: no common strides"),
        ({"assume": {"layers": "s1,s2"}}, "expected one step for each of the 3 layers"),
        ({"assume": {"layers": "s1,s2,s0"}}, "expected one step"),
        ({"assume": {"layers": "s1,s2,s1o1"}}, "expected one step"),
        ({"assume": {"layers": "s1,s2p1,s2p1"}, "side": 20}, "have a side of 16 pixels"),
    ],
)
def test_rejects_geometries_that_do_not_fit(options, message):
    with pytest.raises(ImportOptionError, match=message):
        Geometry.choose([4, 4, 4], Choices(UserOptions(**options)))


def test_rejects_geometries_without_output():
    with pytest.raises(FormatMismatchError, match="a layer has no output"):
        _ = Geometry((4, 4), ((1, 2, 0), (2, 1, 0))).side


def test_kernels_of_three_that_double_are_imported(tmp_path):
    shapes = dcgan_shapes(6, (5, 4, 4), 3)
    shapes = {
        n: (*s[:2], 3, 3) if len(s) == 4 and n != "main.0.weight" else s for n, s in shapes.items()
    }
    tensors = random_tensors(shapes, scale=0.6)
    torch.save(tensors, tmp_path / "g.pth")
    best = recognize(tmp_path / "g.pth")
    assert best.converted.image.height == 32
    assert stated(best)["layers"][0] == "s1p0,s2p1o1,s2p1o1,s2p1o1"
