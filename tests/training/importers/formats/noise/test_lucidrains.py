"""Checkpoints of lucidrains' generators, compared with a reference implementation."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider
from tests.support.checkpoint_layouts.lucidrains import (
    HEAD,
    HEADS,
    Z,
    layer_shapes,
    linear_attention_shapes,
    save_checkpoint,
    stylegan2_tensors,
    with_prefix,
)
from tests.support.checkpoints import PLAN, random_tensors, recognize, to_float64, to_levels
from training.cli.import_ import import_


def conv(t, path, x, **options):
    return F.conv2d(x, t[f"{path}.weight"], t.get(f"{path}.bias"), **options)


def channel_norm(t, path, x):
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * t[f"{path}.g"] + t[f"{path}.b"]


def linear_attention(t, path, x, query="to_q", key_value="to_kv"):
    """Compute each head as in the paper: the context of keys and values, then the queries."""
    positions = x.shape[2] * x.shape[3]
    queries = conv(t, f"{path}.{query}", x).reshape(HEADS, HEAD, positions)
    both = conv(t, f"{path}.{key_value}.net.0", x, padding=1, groups=x.shape[1])
    keys, values = conv(t, f"{path}.{key_value}.net.1", both).reshape(2, HEADS, HEAD, positions)
    heads = []
    for q, k, v in zip(queries, keys, values, strict=True):
        context = torch.softmax(k, dim=1) @ v.t()
        heads.append((torch.softmax(q, dim=0).t() / math.sqrt(HEAD) @ context).t())
    return F.gelu(torch.cat(heads).reshape(1, -1, *x.shape[2:]))


def upsample_bilinear(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def blur(x):
    kernel = torch.tensor([1.0, 2.0, 1.0]).double()
    kernel = torch.outer(kernel, kernel) / 16
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return torch.cat(
        [F.conv2d(padded[:, c : c + 1], kernel[None, None]) for c in range(x.shape[1])], 1
    )


def modulated_conv(weight, x, style, *, demodulate):
    weight = weight * (style + 1)[None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def reference_mapping(t, z, rate):
    w, i = z / z.norm(), 0
    while f"SE.net.{i}.weight" in t:
        w = F.leaky_relu((t[f"SE.net.{i}.weight"] @ w + t[f"SE.net.{i}.bias"]) * rate, 0.2)
        i += 2
    return w


def reference_synthesis(t, styles):
    """Return the image of w ``[layers, Z]``, with the noise that the importer draws."""
    side = 4 * 2 ** (len(styles) - 1)
    noise = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).double()
    if "GE.initial_block" in t:
        x = t["GE.initial_block"]
    else:
        mean = styles.mean(0)[None, :, None, None]
        x = F.conv_transpose2d(mean, t["GE.to_initial_block.weight"])
    x = conv(t, "GE.initial_conv", x, padding=1)
    image = None
    for i, w in enumerate(styles):
        path, attention = f"GE.blocks.{i}", f"GE.attns.{i}"
        if f"{attention}.0.fn.norm.g" in t:
            normalized = channel_norm(t, f"{attention}.0.fn.norm", x)
            attended = linear_attention(t, f"{attention}.0.fn.fn", normalized)
            x = x + conv(t, f"{attention}.0.fn.fn.to_out", attended)
            inner = conv(t, f"{attention}.1.fn.fn.0", channel_norm(t, f"{attention}.1.fn.norm", x))
            x = x + conv(t, f"{attention}.1.fn.fn.2", F.leaky_relu(inner, 0.2))
        x = upsample_bilinear(x) if i else x
        cropped = noise[: x.shape[2], : x.shape[3]].t()
        for number in (1, 2):
            style = t[f"{path}.to_style{number}.weight"] @ w + t[f"{path}.to_style{number}.bias"]
            x = modulated_conv(t[f"{path}.conv{number}.weight"], x, style, demodulate=True)
            to_noise = f"{path}.to_noise{number}"
            noise_and_bias = cropped * t[f"{to_noise}.weight"][:, :, None]
            noise_and_bias = noise_and_bias + t[f"{to_noise}.bias"][:, None, None]
            x = F.leaky_relu(x + noise_and_bias, 0.2)
        style = t[f"{path}.to_rgb.to_style.weight"] @ w + t[f"{path}.to_rgb.to_style.bias"]
        rgb = modulated_conv(t[f"{path}.to_rgb.conv.weight"], x, style, demodulate=False)
        image = rgb if image is None else rgb + image
        image = blur(upsample_bilinear(image)) if i < len(styles) - 1 else image
    return 2 * image - 1


def latent(seed, z_dim=Z):
    return torch.from_numpy(seeds.draw([seed], z_dim))[0].double()


@pytest.mark.slow
def test_stylegan2_reads_learning_rate_from_configuration(tmp_path):
    tensors = stylegan2_tensors([8, 6], attention_blocks=(1,))
    save_checkpoint(tmp_path / "model_7.pt", tensors)
    (tmp_path / ".config.json").write_text(json.dumps({"image_size": 8, "lr_mlp": 0.3}))
    import_(tmp_path / "model_7.pt", "luc", tmp_path / "models")
    model = Model(tmp_path / "models/luc/1", Provider.CPU, PLAN)
    assert model.manifest.provenance.format == "stylegan2-lucidrains"
    assert [layer.resolution for layer in model.manifest.styles.layers] == [4, 8]
    t = to_float64(tensors)
    pixels = model.generate([2, 3], None, [1.0, 0.5]).astype(int)
    latents = torch.randn(3000, Z, generator=torch.Generator().manual_seed(9)).double()
    center = torch.stack([reference_mapping(t, z, 0.3) for z in latents]).mean(0)
    # The importer estimates the average w, so truncated images differ more.
    for row, (seed, psi, tolerance) in enumerate(((2, 1.0, 1), (3, 0.5, 12))):
        w = center + psi * (reference_mapping(t, latent(seed), 0.3) - center)
        expected = to_levels(reference_synthesis(t, w.expand(2, -1)))
        assert np.abs(pixels[row] - expected[0]).max() <= tolerance
        assert expected.std() > 20


@pytest.mark.parametrize(("channels", "constant"), [(4, True), (3, False)])
def test_stylegan2_blocks_have_separate_styles(tmp_path, channels, constant):
    tensors = stylegan2_tensors(
        [8, 6, 5], attention_blocks=(0, 2), channels=channels, constant=constant
    )
    save_checkpoint(tmp_path / "model_7.pt", tensors)
    best = recognize(tmp_path / "model_7.pt")
    assert best.converted.image.channels == channels
    stated = {each.subject: each for each in best.converted.assumptions}
    assert stated["lr_mlp of the mapping network"].value == "0.1"
    assert stated["lr_mlp of the mapping network"].source == "assumed"
    w = torch.randn(3, Z, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[1].module(w[None])
    expected = to_levels(reference_synthesis(to_float64(tensors), w.double()))
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1
    assert expected.std() > 20


def test_rejects_attention_of_unsupported_versions(tmp_path):
    tensors = stylegan2_tensors([8, 6])
    tensors["GE.attns.1.fn.to_q.weight"] = torch.zeros(16, 8, 1, 1)
    save_checkpoint(tmp_path / "model_7.pt", tensors)
    with pytest.raises(UserError, match="from an unsupported version"):
        recognize(tmp_path / "model_7.pt")


def lightweight_gan_tensors(
    widths, attention_blocks=(), excitations=(), frequencies=False, channels=3
):
    """Return the averaged generator of lightweight-gan.

    `excitations` are pairs of a layer and the later layer whose channels it weights.
    """
    shapes = layer_shapes("GE.initial_conv.0", Z, 2 * Z, 4, 4)
    shapes["GE.initial_conv.0.bias"] = (2 * Z,)
    norm = ("weight", "bias", "running_mean", "running_var")
    shapes |= {f"GE.initial_conv.1.{name}": (2 * Z,) for name in norm}
    fan_in = Z
    for i, width in enumerate(widths):
        path = f"GE.layers.{i}"
        shapes |= layer_shapes(f"{path}.0.0.net.0", 4 * fan_in, fan_in, 1, 1)
        shapes[f"{path}.0.1.f"] = (3,)
        shapes |= layer_shapes(f"{path}.0.2.1", 2 * width, fan_in, 4, 4)
        shapes[f"{path}.0.3.weight"] = (1,)
        shapes |= {f"{path}.0.4.{name}": (2 * width,) for name in norm}
        if i in attention_blocks:
            shapes |= {f"{path}.2.norm.{name}": (1, fan_in, 1, 1) for name in "gb"}
            inner = linear_attention_shapes(fan_in, "to_lin_q", "to_lin_kv")
            inner |= layer_shapes("to_q", HEADS * HEAD, fan_in, 1, 1, bias=False)
            inner |= layer_shapes("to_kv", 2 * HEADS * HEAD, fan_in, 1, 1, bias=False)
            shapes |= with_prefix(
                f"{path}.2.fn", inner | layer_shapes("to_out", fan_in, 2 * HEADS * HEAD, 1, 1)
            )
        if i in dict(excitations):
            weighted_channels = widths[dict(excitations)[i]]
            if frequencies:
                shapes[f"{path}.1.dct_weights"] = (1, width, 8 * 2**i, 8 * 2**i)
            else:
                shapes |= layer_shapes(f"{path}.1.to_k", 1, width, 1, 1)
            shapes |= layer_shapes(f"{path}.1.net.0", 3, width, 1, 1)
            shapes |= layer_shapes(f"{path}.1.net.2", weighted_channels, 3, 1, 1)
        fan_in = width
    shapes |= layer_shapes("GE.out_conv", channels, fan_in, 3, 3)
    tensors = random_tensors(shapes, scale=0.5)
    for name in tensors:
        if "dct" in name:
            tensors[name] = tensors[name] / 16
        if name.endswith("running_var"):
            tensors[name] = tensors[name] * 0.1
    return tensors


def batch_norm(t, path, x):
    mean, var, gain, bias = (
        t[f"{path}.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias


def glu(x):
    kept, gate = x.chunk(2, dim=1)
    return kept * torch.sigmoid(gate)


def window_attention(t, path, x):
    """Compute the attention of each position over its 3×3 window, with zeros beyond the edge."""
    queries = conv(t, f"{path}.to_q", x)[0].reshape(HEADS, HEAD, *x.shape[2:])
    both = F.pad(conv(t, f"{path}.to_kv", x)[0], (1, 1, 1, 1))
    keys, values = both.reshape(2, HEADS, HEAD, *both.shape[1:])
    out = torch.zeros_like(queries)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = (slice(None), slice(None), slice(i, i + 3), slice(j, j + 3))
            k, v = keys[window].flatten(2), values[window].flatten(2)
            q = queries[:, :, i, j, None] / math.sqrt(HEAD)
            out[:, :, i, j] = (v * torch.softmax((q * k).sum(1), dim=1)[:, None]).sum(2)
    return out.reshape(1, -1, *x.shape[2:])


def lightweight_reference(t, z, excitations=()):
    x = F.conv_transpose2d(
        z[None, :, None, None], t["GE.initial_conv.0.weight"], t["GE.initial_conv.0.bias"]
    )
    x = F.normalize(glu(batch_norm(t, "GE.initial_conv.1", x)), dim=1)
    weights = {}
    i = 0
    while f"GE.layers.{i}.0.0.net.0.weight" in t:
        path = f"GE.layers.{i}"
        if f"{path}.2.norm.g" in t:
            normalized = channel_norm(t, f"{path}.2.norm", x)
            linear = linear_attention(t, f"{path}.2.fn", normalized, "to_lin_q", "to_lin_kv")
            local = window_attention(t, f"{path}.2.fn", normalized)
            x = x + conv(t, f"{path}.2.fn.to_out", torch.cat([linear, local], 1))
        x = blur(F.pixel_shuffle(F.silu(conv(t, f"{path}.0.0.net.0", x)), 2))
        x = conv(t, f"{path}.0.2.1", F.pad(x, (2, 1, 2, 1)))
        noise = torch.randn(*x.shape[2:], generator=torch.Generator().manual_seed(0)).double()
        x = glu(batch_norm(t, f"{path}.0.4", x + t[f"{path}.0.3.weight"] * noise))
        if i in dict(excitations):
            if f"{path}.1.dct_weights" in t:
                pooled = (x * t[f"{path}.1.dct_weights"]).sum((2, 3), keepdim=True)
            else:
                attention = torch.softmax(conv(t, f"{path}.1.to_k", x).flatten(), dim=0)
                pooled = (x.flatten(2) * attention).sum(2)[..., None, None]
            inner = F.leaky_relu(conv(t, f"{path}.1.net.0", pooled), 0.1)
            weights[dict(excitations)[i]] = torch.sigmoid(conv(t, f"{path}.1.net.2", inner))
        x = x * weights[i] if i in weights else x
        i += 1
    return 2 * conv(t, "GE.out_conv", x, padding=1) - 1


@pytest.mark.slow
def test_lightweight_gan_matches_reference(tmp_path):
    tensors = lightweight_gan_tensors([6], attention_blocks=(0,))
    save_checkpoint(tmp_path / "model_3.pt", tensors)
    import_(tmp_path / "model_3.pt", "light", tmp_path / "models")
    model = Model(tmp_path / "models/light/1", Provider.CPU, PLAN)
    assert model.manifest.provenance.format == "lightweight-gan"
    pixels = model.generate([4, 5]).astype(int)
    for row, seed in enumerate((4, 5)):
        expected = to_levels(lightweight_reference(to_float64(tensors), latent(seed)))
        assert np.abs(pixels[row] - expected[0]).max() <= 1
        assert expected.std() > 20


@pytest.mark.parametrize("frequencies", [False, True])
def test_lightweight_gan_with_skip_layer_excitation_matches_reference(tmp_path, frequencies):
    excitations = ((1, 4),)
    tensors = lightweight_gan_tensors([6, 6, 5, 4, 4], (), excitations, frequencies, channels=1)
    save_checkpoint(tmp_path / "model_3.pt", tensors)
    best = recognize(tmp_path / "model_3.pt")
    assert dict(best.converted.details)["skip-layer excitations"] == "1"
    assert (best.converted.image.height, best.converted.image.channels) == (128, 1)
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[0].module(latent(1)[None].float())
    expected = to_levels(lightweight_reference(to_float64(tensors), latent(1), excitations))
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1
    assert expected.std() > 20
