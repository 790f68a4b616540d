import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds as latents
from tests.support.checkpoints import drawn, imported, nested, to_levels, write_nvidia

W, Z = 16, 12
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])


def nvidia_shapes(widths, channels=3, classes=0, layers=2):
    shapes = {"mapping.w_avg": (W,)}
    if classes:
        shapes |= {"mapping.embed.weight": (W, classes), "mapping.embed.bias": (W,)}
    for i in range(layers):
        fan_in = W if i else Z + (W if classes else 0)
        shapes |= {f"mapping.fc{i}.weight": (W, fan_in), f"mapping.fc{i}.bias": (W,)}
    for i, width in enumerate(widths):
        side, before = 4 * 2**i, widths[max(i - 1, 0)]
        block = f"synthesis.b{side}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        if i == 0:
            shapes[f"{block}.const"] = (width, 4, 4)
        for name, fan_in in (("conv0", before), ("conv1", width)):
            if i == 0 and name == "conv0":
                continue
            shapes |= {
                f"{block}.{name}.weight": (width, fan_in, 3, 3),
                f"{block}.{name}.noise_strength": (),
                f"{block}.{name}.bias": (width,),
                f"{block}.{name}.resample_filter": (4, 4),
                f"{block}.{name}.noise_const": (side, side),
                f"{block}.{name}.affine.weight": (fan_in, W),
                f"{block}.{name}.affine.bias": (fan_in,),
            }
        shapes |= {
            f"{block}.torgb.weight": (channels, width, 1, 1),
            f"{block}.torgb.bias": (channels,),
            f"{block}.torgb.affine.weight": (width, W),
            f"{block}.torgb.affine.bias": (width,),
        }
    return shapes


def filtered(x, pads, gain):
    """Filter by [1, 3, 3, 1] in both directions, after padding by zeros."""
    kernel = torch.outer(TAPS, TAPS).double()
    kernel = (kernel / kernel.sum() * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, pads), kernel, groups=x.shape[1])


def spread(x):
    """Zeros between all values, and after the last."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def modulated(x, weight, style, *, demodulate, doubles=False):
    """One row by weights of its own, as the paper writes it: equations 1 and 3."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    if doubles:
        # A convolution of what has been spread, then the filter: three zeros are those that
        # the convolution and the filter look at beyond the edge.
        x = F.conv2d(F.pad(spread(x), (2, 1, 2, 1)), weight.flip(2, 3))
        return filtered(x, (1, 1, 1, 1), 4.0)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def activated(x):
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def synthesised(t, w, sides):
    """The picture of w ``[layers, W]``, by NVIDIA's names."""
    image, x = None, t["synthesis.b4.const"][None]
    layer = 0
    for side in sides:
        block = f"synthesis.b{side}"
        for name in ("conv0", "conv1"):
            path = f"{block}.{name}"
            if f"{path}.weight" not in t:
                continue
            style = t[f"{path}.affine.weight"] @ w[layer] / math.sqrt(W) + t[f"{path}.affine.bias"]
            x = modulated(x, t[f"{path}.weight"], style, demodulate=True, doubles=name == "conv0")
            x = x + t[f"{path}.noise_const"] * t[f"{path}.noise_strength"]
            x = activated(x + t[f"{path}.bias"][:, None, None])
            layer += 1
        path = f"{block}.torgb"
        style = t[f"{path}.affine.weight"] @ w[layer] / math.sqrt(W) + t[f"{path}.affine.bias"]
        weight = t[f"{path}.weight"] / math.sqrt(x.shape[1])
        made = modulated(x, weight, style, demodulate=False) + t[f"{path}.bias"][:, None, None]
        image = made if image is None else made + filtered(spread(image), (2, 1, 2, 1), 4.0)
    return image[0]


def normalised(x):
    return x / torch.sqrt(x.square().mean() + 1e-8)


def mapped(t, z, label=None, rate=0.01):
    x = normalised(z)
    if label is not None:
        weight = t["mapping.embed.weight"]
        embedded = weight @ label / math.sqrt(weight.shape[1]) + t["mapping.embed.bias"]
        x = torch.cat([x, normalised(embedded)])
    i = 0
    while f"mapping.fc{i}.weight" in t:
        weight = t[f"mapping.fc{i}.weight"] * rate / math.sqrt(x.shape[0])
        x = activated(weight @ x + t[f"mapping.fc{i}.bias"] * rate)
        i += 1
    return x


def nvidia_file(path, tensors, classes=0):
    generator = nested(
        "Generator",
        tensors,
        {"": {"z_dim": Z, "c_dim": classes}, "mapping.fc0": {"bias_gain": 0.01}},
    )
    write_nvidia(path, {"G": generator, "D": None, "G_ema": generator, "augment_pipe": None})


def weights(widths, **said):
    tensors = drawn(nvidia_shapes(widths, **said))
    for name in tensors:
        if name.startswith("mapping.fc"):
            tensors[name] = tensors[name] * 100
        if name.endswith("torgb.weight"):
            tensors[name] = tensors[name] * 0.3
    return tensors


@pytest.mark.parametrize(("widths", "channels"), [([8, 6, 5], 3), ([6, 4], 1), ([8, 6, 5, 4], 4)])
def test_a_pickle_of_stylegan2_ada_makes_the_pictures_of_its_weights(tmp_path, widths, channels):
    tensors = weights(widths, channels=channels)
    nvidia_file(tmp_path / "network.pkl", tensors)
    best, model = imported(tmp_path / "network.pkl", tmp_path / "models")
    assert best.format.name == "stylegan2-ada"
    assert best.network.name == "G_ema"
    sides = [4 * 2**i for i in range(len(widths))]
    assert model.manifest.image.height == sides[-1]
    assert len(model.manifest.styles.layers) == 2 * len(widths)
    t = {name: value.double() for name, value in tensors.items()}
    seeds, truncations = [0, 5, 9], [1.0, 0.5, 0.0]
    made = model.generate(seeds, None, truncations).astype(int)
    for i, (seed, psi) in enumerate(zip(seeds, truncations, strict=True)):
        w = mapped(t, torch.from_numpy(latents.draw([seed], Z))[0].double())
        w = t["mapping.w_avg"] + psi * (w - t["mapping.w_avg"])
        expected = to_levels(synthesised(t, w.expand(2 * len(widths), -1), sides)[None])
        assert np.abs(made[i] - expected[0]).max() <= 1
        assert expected.std() > 20


def test_each_layer_takes_its_own_style(tmp_path):
    tensors = weights([8, 6, 5])
    nvidia_file(tmp_path / "network.pkl", tensors)
    _, model = imported(tmp_path / "network.pkl", tmp_path / "models")
    t = {name: value.double() for name, value in tensors.items()}
    w = torch.randn(1, 6, W, generator=torch.Generator().manual_seed(3))
    expected = to_levels(synthesised(t, w[0].double(), [4, 8, 16])[None])
    assert np.abs(model.synthesize(w.numpy()).astype(int) - expected).max() <= 1


def test_a_class_conditional_pickle_obeys_and_blends(tmp_path):
    tensors = weights([6, 5], classes=3)
    nvidia_file(tmp_path / "network.pkl", tensors, classes=3)
    _, model = imported(tmp_path / "network.pkl", tmp_path / "models")
    assert model.manifest.classes == ("0", "1", "2")
    t = {name: value.double() for name, value in tensors.items()}
    z = torch.from_numpy(latents.draw([4], Z))[0].double()
    for index in range(3):
        w = mapped(t, z, F.one_hot(torch.tensor(index), 3).double())
        expected = to_levels(synthesised(t, w.expand(4, -1), [4, 8])[None])
        assert np.abs(model.generate([4], [index], [1.0]).astype(int) - expected).max() <= 1


def to_rosinality(t, sides):
    """The same weights under rosinality's names."""
    made = {"input.input": t["synthesis.b4.const"][None]}
    i = 0
    while f"mapping.fc{i}.weight" in t:
        made[f"style.{i + 1}.weight"] = t[f"mapping.fc{i}.weight"]
        made[f"style.{i + 1}.bias"] = t[f"mapping.fc{i}.bias"]
        i += 1
    place = noise = 0
    for side in sides:
        for name in ("conv0", "conv1"):
            path = f"synthesis.b{side}.{name}"
            if f"{path}.weight" not in t:
                continue
            to = "conv1" if side == 4 else f"convs.{place}"
            place += side > 4
            made |= {
                f"{to}.conv.weight": t[f"{path}.weight"][None],
                f"{to}.conv.modulation.weight": t[f"{path}.affine.weight"],
                f"{to}.conv.modulation.bias": t[f"{path}.affine.bias"],
                f"{to}.noise.weight": t[f"{path}.noise_strength"].reshape(1),
                f"{to}.activate.bias": t[f"{path}.bias"],
                f"noises.noise_{noise}": t[f"{path}.noise_const"][None, None],
            }
            noise += 1
        path = f"synthesis.b{side}.torgb"
        to = "to_rgb1" if side == 4 else f"to_rgbs.{sides.index(side) - 1}"
        made |= {
            f"{to}.conv.weight": t[f"{path}.weight"][None],
            f"{to}.conv.modulation.weight": t[f"{path}.affine.weight"],
            f"{to}.conv.modulation.bias": t[f"{path}.affine.bias"],
            f"{to}.bias": t[f"{path}.bias"][None, :, None, None],
        }
        if side > 4:
            made[f"{to}.upsample.kernel"] = torch.outer(TAPS, TAPS) / 16
            made[f"convs.{place - 2}.conv.blur.kernel"] = torch.outer(TAPS, TAPS) / 16
    return made


@pytest.mark.parametrize("averaged", [True, False])
def test_rosinalitys_layout_makes_the_pictures_of_its_weights(tmp_path, averaged):
    sides = [4, 8, 16]
    tensors = weights([8, 6, 5])
    state = to_rosinality(tensors, sides)
    file = {"g_ema": state, "g": state, "g_optim": {"state": {}, "param_groups": []}}
    if averaged:
        file["latent_avg"] = tensors["mapping.w_avg"]
    torch.save(file, tmp_path / "550000.pt")
    best, model = imported(tmp_path / "550000.pt", tmp_path / "models")
    assert best.format.name == "stylegan2-rosinality"
    assert best.network.name == "g_ema"
    t = {name: value.double() for name, value in tensors.items()}
    w = mapped(t, torch.from_numpy(latents.draw([2], Z))[0].double())
    center = t["mapping.w_avg"]
    if not averaged:
        many = torch.randn(4000, Z, generator=torch.Generator().manual_seed(9)).double()
        center = torch.stack([mapped(t, z) for z in many]).mean(0)
        assert "estimated" in best.converted.notes[0]
    for psi, near in ((1.0, 1), (0.5, 1 if averaged else 12)):
        mixed = (center + psi * (w - center)).expand(6, -1)
        expected = to_levels(synthesised(t, mixed, sides)[None])
        assert np.abs(model.generate([2], None, [psi]).astype(int) - expected).max() <= near


def test_another_architecture_than_skip_is_told(tmp_path):
    tensors = weights([6, 5])
    tensors["synthesis.b8.skip.weight"] = torch.randn(5, 6, 1, 1)
    nvidia_file(tmp_path / "network.pkl", tensors)
    with pytest.raises(UserError, match="skip"):
        imported(tmp_path / "network.pkl", tmp_path / "models")
    assert not (tmp_path / "models").exists()
