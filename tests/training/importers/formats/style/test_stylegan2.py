"""StyleGAN2 checkpoints, compared with a reference implementation."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds as latents
from tests.support.checkpoint_layouts.stylegan2 import (
    TAPS,
    W,
    Z,
    leaky_relu,
    nvidia_tensors,
    reference_mapping,
    to_rosinality,
    write_pickle,
)
from tests.support.checkpoints import import_checkpoint, to_levels


def apply_filter(x, pads, gain):
    """Pad with zeros, then filter with [1, 3, 3, 1] along both axes."""
    kernel = torch.outer(TAPS, TAPS).double()
    kernel = (kernel / kernel.sum() * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, pads), kernel, groups=x.shape[1])


def insert_zeros(x):
    """Insert a zero after each value along both axes."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def modulated_conv(x, weight, style, *, demodulate, doubles=False):
    """Modulate the weights for one image, as in equations 1 and 3 of the paper."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    if doubles:
        # Zero insertion, convolution, then the filter. The padding is that of both together.
        x = F.conv2d(F.pad(insert_zeros(x), (2, 1, 2, 1)), weight.flip(2, 3))
        return apply_filter(x, (1, 1, 1, 1), 4.0)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def reference_synthesis(t, w, sides):
    """Return the image of w ``[layers, W]``, from NVIDIA's tensor names."""
    image, x = None, t["synthesis.b4.const"][None]
    layer = 0
    for side in sides:
        block = f"synthesis.b{side}"
        for name in ("conv0", "conv1"):
            path = f"{block}.{name}"
            if f"{path}.weight" not in t:
                continue
            style = t[f"{path}.affine.weight"] @ w[layer] / math.sqrt(W) + t[f"{path}.affine.bias"]
            x = modulated_conv(
                x, t[f"{path}.weight"], style, demodulate=True, doubles=name == "conv0"
            )
            x = x + t[f"{path}.noise_const"] * t[f"{path}.noise_strength"]
            x = leaky_relu(x + t[f"{path}.bias"][:, None, None])
            layer += 1
        path = f"{block}.torgb"
        style = t[f"{path}.affine.weight"] @ w[layer] / math.sqrt(W) + t[f"{path}.affine.bias"]
        weight = t[f"{path}.weight"] / math.sqrt(x.shape[1])
        rgb = modulated_conv(x, weight, style, demodulate=False) + t[f"{path}.bias"][:, None, None]
        image = rgb if image is None else rgb + apply_filter(insert_zeros(image), (2, 1, 2, 1), 4.0)
    return image[0]


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "channels"), [([8, 6, 5], 3), ([6, 4], 1), ([8, 6, 5, 4], 4)])
def test_nvidia_pickle_matches_reference(tmp_path, widths, channels):
    tensors = nvidia_tensors(widths, channels=channels)
    write_pickle(tmp_path / "network.pkl", tensors)
    best, model = import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    assert best.format.name == "stylegan2-ada"
    assert best.network.name == "G_ema"
    sides = [4 * 2**i for i in range(len(widths))]
    assert model.manifest.image_spec.height == sides[-1]
    assert len(model.manifest.styles.layers) == 2 * len(widths)
    t = {name: value.double() for name, value in tensors.items()}
    seeds, truncations = [0, 5, 9], [1.0, 0.5, 0.0]
    pixels = model.generate(seeds, None, truncations).astype(int)
    for i, (seed, psi) in enumerate(zip(seeds, truncations, strict=True)):
        w = reference_mapping(t, torch.from_numpy(latents.draw([seed], Z))[0].double())
        w = t["mapping.w_avg"] + psi * (w - t["mapping.w_avg"])
        expected = to_levels(reference_synthesis(t, w.expand(2 * len(widths), -1), sides)[None])
        assert np.abs(pixels[i] - expected[0]).max() <= 1
        assert expected.std() > 20


@pytest.mark.slow
def test_layers_have_separate_styles(tmp_path):
    tensors = nvidia_tensors([8, 6, 5])
    write_pickle(tmp_path / "network.pkl", tensors)
    _, model = import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    t = {name: value.double() for name, value in tensors.items()}
    w = torch.randn(1, 6, W, generator=torch.Generator().manual_seed(3))
    expected = to_levels(reference_synthesis(t, w[0].double(), [4, 8, 16])[None])
    assert np.abs(model.synthesize(w.numpy()).astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_class_conditional_pickle_matches_reference(tmp_path):
    tensors = nvidia_tensors([6, 5], classes=3)
    write_pickle(tmp_path / "network.pkl", tensors, classes=3)
    _, model = import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    assert model.manifest.classes == ("0", "1", "2")
    t = {name: value.double() for name, value in tensors.items()}
    z = torch.from_numpy(latents.draw([4], Z))[0].double()
    for index in range(3):
        w = reference_mapping(t, z, F.one_hot(torch.tensor(index), 3).double())
        expected = to_levels(reference_synthesis(t, w.expand(4, -1), [4, 8])[None])
        assert np.abs(model.generate([4], [index], [1.0]).astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [True, False])
def test_rosinality_checkpoint_matches_reference(tmp_path, averaged):
    sides = [4, 8, 16]
    tensors = nvidia_tensors([8, 6, 5])
    state = to_rosinality(tensors, sides)
    file = {"g_ema": state, "g": state, "g_optim": {"state": {}, "param_groups": []}}
    if averaged:
        file["latent_avg"] = tensors["mapping.w_avg"]
    torch.save(file, tmp_path / "550000.pt")
    best, model = import_checkpoint(tmp_path / "550000.pt", tmp_path / "models")
    assert best.format.name == "stylegan2-rosinality"
    assert best.network.name == "g_ema"
    t = {name: value.double() for name, value in tensors.items()}
    w = reference_mapping(t, torch.from_numpy(latents.draw([2], Z))[0].double())
    center = t["mapping.w_avg"]
    if not averaged:
        latents_sample = torch.randn(4000, Z, generator=torch.Generator().manual_seed(9)).double()
        center = torch.stack([reference_mapping(t, z) for z in latents_sample]).mean(0)
        assert "estimated" in best.converted.notes[0]
    for psi, tolerance in ((1.0, 1), (0.5, 1 if averaged else 12)):
        mixed = (center + psi * (w - center)).expand(6, -1)
        expected = to_levels(reference_synthesis(t, mixed, sides)[None])
        assert np.abs(model.generate([2], None, [psi]).astype(int) - expected).max() <= tolerance


def test_rejects_architectures_other_than_skip(tmp_path):
    tensors = nvidia_tensors([6, 5])
    tensors["synthesis.b8.skip.weight"] = torch.randn(5, 6, 1, 1)
    write_pickle(tmp_path / "network.pkl", tensors)
    with pytest.raises(UserError, match="skip"):
        import_checkpoint(tmp_path / "network.pkl", tmp_path / "models")
    assert not (tmp_path / "models").exists()
