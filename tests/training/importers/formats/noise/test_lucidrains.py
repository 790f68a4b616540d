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
from tests.support.checkpoints import PLAN, drawn, recognised, to_levels
from training.cli.import_ import import_

Z, HEADS, HEAD = 10, 8, 2


def layer(name, *shape, bias=True):
    made = {f"{name}.weight": shape}
    return made | ({f"{name}.bias": shape[:1]} if bias else {})


def linear_attention_shapes(width, query="to_q", key_value="to_kv"):
    inner = HEADS * HEAD
    shapes = layer(query, inner, width, 1, 1, bias=False)
    shapes |= layer(f"{key_value}.net.0", width, 1, 3, 3, bias=False)
    return shapes | layer(f"{key_value}.net.1", 2 * inner, width, 1, 1, bias=False)


def under(prefix, shapes):
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def stylegan2(widths, looks=(), channels=3, constant=True, layers=2):
    """The averaged networks of stylegan2-pytorch, with attention before the blocks `looks`."""
    shapes = {}
    for i in range(layers):
        shapes |= layer(f"SE.net.{2 * i}", Z, Z)
    if constant:
        shapes["GE.initial_block"] = (1, widths[0], 4, 4)
    else:
        shapes |= layer("GE.to_initial_block", Z, widths[0], 4, 4, bias=False)
    shapes |= layer("GE.initial_conv", widths[0], widths[0], 3, 3)
    before = widths[0]
    for i, width in enumerate(widths):
        path = f"GE.blocks.{i}"
        if i in looks:
            attention = f"GE.attns.{i}"
            for j in (0, 1):
                norm = {f"{attention}.{j}.fn.norm.{name}": (1, before, 1, 1) for name in "gb"}
                shapes |= norm
            shapes |= under(f"{attention}.0.fn.fn", linear_attention_shapes(before))
            shapes |= layer(f"{attention}.0.fn.fn.to_out", before, HEADS * HEAD, 1, 1)
            shapes |= layer(f"{attention}.1.fn.fn.0", 2 * before, before, 1, 1)
            shapes |= layer(f"{attention}.1.fn.fn.2", before, 2 * before, 1, 1)
        for number, taken in ((1, before), (2, width)):
            shapes |= layer(f"{path}.to_style{number}", taken, Z)
            shapes |= layer(f"{path}.to_noise{number}", width, 1)
            shapes |= layer(f"{path}.conv{number}", width, taken, 3, 3, bias=False)
        shapes |= layer(f"{path}.to_rgb.to_style", width, Z)
        shapes |= layer(f"{path}.to_rgb.conv", channels, width, 1, 1, bias=False)
        if i < len(widths) - 1:
            shapes[f"{path}.to_rgb.upsample.1.f"] = (3,)
        before = width
    tensors = drawn(shapes)
    for name in tensors:
        if name.startswith("SE."):
            tensors[name] = tensors[name] * 4
        if "to_noise" in name or "to_rgb.conv" in name:
            tensors[name] = tensors[name] * 0.2
    return tensors


def save(path, averaged):
    """A checkpoint with the other networks that the author saves."""
    current = {
        name.replace("SE.", "S.", 1).replace("GE.", "G.", 1): torch.zeros_like(value)
        for name, value in averaged.items()
    }
    critic = {"D.blocks.0.conv_res.weight": torch.zeros(2, 3, 1, 1)}
    torch.save({"GAN": current | critic | averaged, "version": "1.9.0"}, path)


def conv(t, path, x, **options):
    return F.conv2d(x, t[f"{path}.weight"], t.get(f"{path}.bias"), **options)


def channel_norm(t, path, x):
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * t[f"{path}.g"] + t[f"{path}.b"]


def linear_attention(t, path, x, query="to_q", key_value="to_kv"):
    """Head by head, as the paper has it: what all places say, then who asks."""
    places = x.shape[2] * x.shape[3]
    queries = conv(t, f"{path}.{query}", x).reshape(HEADS, HEAD, places)
    both = conv(t, f"{path}.{key_value}.net.0", x, padding=1, groups=x.shape[1])
    keys, values = conv(t, f"{path}.{key_value}.net.1", both).reshape(2, HEADS, HEAD, places)
    seen = []
    for q, k, v in zip(queries, keys, values, strict=True):
        context = torch.softmax(k, dim=1) @ v.t()
        seen.append((torch.softmax(q, dim=0).t() / math.sqrt(HEAD) @ context).t())
    return F.gelu(torch.cat(seen).reshape(1, -1, *x.shape[2:]))


def doubled(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def blurred(x):
    kernel = torch.tensor([1.0, 2.0, 1.0]).double()
    kernel = torch.outer(kernel, kernel) / 16
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return torch.cat(
        [F.conv2d(padded[:, c : c + 1], kernel[None, None]) for c in range(x.shape[1])], 1
    )


def modulated(weight, x, style, *, demodulate):
    weight = weight * (style + 1)[None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


def mapped(t, z, rate):
    w, i = z / z.norm(), 0
    while f"SE.net.{i}.weight" in t:
        w = F.leaky_relu((t[f"SE.net.{i}.weight"] @ w + t[f"SE.net.{i}.bias"]) * rate, 0.2)
        i += 2
    return w


def synthesised(t, styles):
    """The picture of w ``[layers, Z]``, with the noise of the importer's seed."""
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
        path, looks = f"GE.blocks.{i}", f"GE.attns.{i}"
        if f"{looks}.0.fn.norm.g" in t:
            seen = linear_attention(t, f"{looks}.0.fn.fn", channel_norm(t, f"{looks}.0.fn.norm", x))
            x = x + conv(t, f"{looks}.0.fn.fn.to_out", seen)
            inner = conv(t, f"{looks}.1.fn.fn.0", channel_norm(t, f"{looks}.1.fn.norm", x))
            x = x + conv(t, f"{looks}.1.fn.fn.2", F.leaky_relu(inner, 0.2))
        x = doubled(x) if i else x
        cropped = noise[: x.shape[2], : x.shape[3]].t()
        for number in (1, 2):
            style = t[f"{path}.to_style{number}.weight"] @ w + t[f"{path}.to_style{number}.bias"]
            x = modulated(t[f"{path}.conv{number}.weight"], x, style, demodulate=True)
            added = f"{path}.to_noise{number}"
            grain = cropped * t[f"{added}.weight"][:, :, None] + t[f"{added}.bias"][:, None, None]
            x = F.leaky_relu(x + grain, 0.2)
        style = t[f"{path}.to_rgb.to_style.weight"] @ w + t[f"{path}.to_rgb.to_style.bias"]
        made = modulated(t[f"{path}.to_rgb.conv.weight"], x, style, demodulate=False)
        image = made if image is None else made + image
        image = blurred(doubled(image)) if i < len(styles) - 1 else image
    return 2 * image - 1


def latent(seed, z_dim=Z):
    return torch.from_numpy(seeds.draw([seed], z_dim))[0].double()


def doubles(tensors):
    return {name: value.double() for name, value in tensors.items()}


def test_stylegan2_makes_the_pictures_of_its_weights_at_the_rate_beside_it(tmp_path):
    tensors = stylegan2([8, 6], looks=(1,))
    save(tmp_path / "model_7.pt", tensors)
    (tmp_path / ".config.json").write_text(json.dumps({"image_size": 8, "lr_mlp": 0.3}))
    import_(tmp_path / "model_7.pt", "luc", tmp_path / "models")
    model = Model(tmp_path / "models/luc/1", Provider.CPU, PLAN)
    assert model.manifest.provenance.format == "stylegan2-lucidrains"
    assert [layer.resolution for layer in model.manifest.styles.layers] == [4, 8]
    t = doubles(tensors)
    made = model.generate([2, 3], None, [1.0, 0.5]).astype(int)
    many = torch.randn(3000, Z, generator=torch.Generator().manual_seed(9)).double()
    center = torch.stack([mapped(t, z, 0.3) for z in many]).mean(0)
    for row, (seed, psi, near) in enumerate(((2, 1.0, 1), (3, 0.5, 12))):
        w = center + psi * (mapped(t, latent(seed), 0.3) - center)
        expected = to_levels(synthesised(t, w.expand(2, -1)))
        assert np.abs(made[row] - expected[0]).max() <= near
        assert expected.std() > 20


@pytest.mark.parametrize(("channels", "constant"), [(4, True), (3, False)])
def test_each_block_takes_its_own_style(tmp_path, channels, constant):
    tensors = stylegan2([8, 6, 5], looks=(0, 2), channels=channels, constant=constant)
    save(tmp_path / "model_7.pt", tensors)
    best = recognised(tmp_path / "model_7.pt")
    assert best.converted.image.channels == channels
    assert "rate of its mapping is 0.1" in best.converted.notes[-1]
    w = torch.randn(3, Z, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[1].module(w[None])
    expected = to_levels(synthesised(doubles(tensors), w.double()))
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1
    assert expected.std() > 20


def test_attention_of_another_version_is_told(tmp_path):
    tensors = stylegan2([8, 6])
    tensors["GE.attns.1.fn.to_q.weight"] = torch.zeros(16, 8, 1, 1)
    save(tmp_path / "model_7.pt", tensors)
    with pytest.raises(UserError, match="another version"):
        recognised(tmp_path / "model_7.pt")


def lightweight(widths, looks=(), excites=(), frequencies=False, channels=3):
    """The averaged generator of lightweight-gan; `excites` are layers and those they weigh."""
    shapes = layer("GE.initial_conv.0", Z, 2 * Z, 4, 4)
    shapes["GE.initial_conv.0.bias"] = (2 * Z,)
    norm = ("weight", "bias", "running_mean", "running_var")
    shapes |= {f"GE.initial_conv.1.{name}": (2 * Z,) for name in norm}
    before = Z
    for i, width in enumerate(widths):
        path = f"GE.layers.{i}"
        shapes |= layer(f"{path}.0.0.net.0", 4 * before, before, 1, 1)
        shapes[f"{path}.0.1.f"] = (3,)
        shapes |= layer(f"{path}.0.2.1", 2 * width, before, 4, 4)
        shapes[f"{path}.0.3.weight"] = (1,)
        shapes |= {f"{path}.0.4.{name}": (2 * width,) for name in norm}
        if i in looks:
            shapes |= {f"{path}.2.norm.{name}": (1, before, 1, 1) for name in "gb"}
            inner = linear_attention_shapes(before, "to_lin_q", "to_lin_kv")
            inner |= layer("to_q", HEADS * HEAD, before, 1, 1, bias=False)
            inner |= layer("to_kv", 2 * HEADS * HEAD, before, 1, 1, bias=False)
            shapes |= under(f"{path}.2.fn", inner | layer("to_out", before, 2 * HEADS * HEAD, 1, 1))
        if i in dict(excites):
            weighed = widths[dict(excites)[i]]
            if frequencies:
                shapes[f"{path}.1.dct_weights"] = (1, width, 8 * 2**i, 8 * 2**i)
            else:
                shapes |= layer(f"{path}.1.to_k", 1, width, 1, 1)
            shapes |= layer(f"{path}.1.net.0", 3, width, 1, 1)
            shapes |= layer(f"{path}.1.net.2", weighed, 3, 1, 1)
        before = width
    shapes |= layer("GE.out_conv", channels, before, 3, 3)
    tensors = drawn(shapes, scale=0.5)
    for name in tensors:
        if "dct" in name:
            tensors[name] = tensors[name] / 16
        if name.endswith("running_var"):
            tensors[name] = tensors[name] * 0.1
    return tensors


def normalised(t, path, x):
    mean, var, gain, bias = (
        t[f"{path}.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias


def gated(x):
    kept, gate = x.chunk(2, dim=1)
    return kept * torch.sigmoid(gate)


def window_attention(t, path, x):
    """Place by place: the nine around it, those beyond the edge being nought."""
    queries = conv(t, f"{path}.to_q", x)[0].reshape(HEADS, HEAD, *x.shape[2:])
    both = F.pad(conv(t, f"{path}.to_kv", x)[0], (1, 1, 1, 1))
    keys, values = both.reshape(2, HEADS, HEAD, *both.shape[1:])
    out = torch.zeros_like(queries)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            around = (slice(None), slice(None), slice(i, i + 3), slice(j, j + 3))
            k, v = keys[around].flatten(2), values[around].flatten(2)
            q = queries[:, :, i, j, None] / math.sqrt(HEAD)
            out[:, :, i, j] = (v * torch.softmax((q * k).sum(1), dim=1)[:, None]).sum(2)
    return out.reshape(1, -1, *x.shape[2:])


def lightweight_picture(t, z, excites=()):
    x = F.conv_transpose2d(
        z[None, :, None, None], t["GE.initial_conv.0.weight"], t["GE.initial_conv.0.bias"]
    )
    x = F.normalize(gated(normalised(t, "GE.initial_conv.1", x)), dim=1)
    weights = {}
    i = 0
    while f"GE.layers.{i}.0.0.net.0.weight" in t:
        path = f"GE.layers.{i}"
        if f"{path}.2.norm.g" in t:
            seen = channel_norm(t, f"{path}.2.norm", x)
            far = linear_attention(t, f"{path}.2.fn", seen, "to_lin_q", "to_lin_kv")
            near = window_attention(t, f"{path}.2.fn", seen)
            x = x + conv(t, f"{path}.2.fn.to_out", torch.cat([far, near], 1))
        x = blurred(F.pixel_shuffle(F.silu(conv(t, f"{path}.0.0.net.0", x)), 2))
        x = conv(t, f"{path}.0.2.1", F.pad(x, (2, 1, 2, 1)))
        noise = torch.randn(*x.shape[2:], generator=torch.Generator().manual_seed(0)).double()
        x = gated(normalised(t, f"{path}.0.4", x + t[f"{path}.0.3.weight"] * noise))
        if i in dict(excites):
            if f"{path}.1.dct_weights" in t:
                pooled = (x * t[f"{path}.1.dct_weights"]).sum((2, 3), keepdim=True)
            else:
                looks = torch.softmax(conv(t, f"{path}.1.to_k", x).flatten(), dim=0)
                pooled = (x.flatten(2) * looks).sum(2)[..., None, None]
            inner = F.leaky_relu(conv(t, f"{path}.1.net.0", pooled), 0.1)
            weights[dict(excites)[i]] = torch.sigmoid(conv(t, f"{path}.1.net.2", inner))
        x = x * weights[i] if i in weights else x
        i += 1
    return 2 * conv(t, "GE.out_conv", x, padding=1) - 1


def test_lightweight_gan_makes_the_pictures_of_its_weights(tmp_path):
    tensors = lightweight([6], looks=(0,))
    save(tmp_path / "model_3.pt", tensors)
    import_(tmp_path / "model_3.pt", "light", tmp_path / "models")
    model = Model(tmp_path / "models/light/1", Provider.CPU, PLAN)
    assert model.manifest.provenance.format == "lightweight-gan"
    made = model.generate([4, 5]).astype(int)
    for row, seed in enumerate((4, 5)):
        expected = to_levels(lightweight_picture(doubles(tensors), latent(seed)))
        assert np.abs(made[row] - expected[0]).max() <= 1
        assert expected.std() > 20


@pytest.mark.parametrize("frequencies", [False, True])
def test_early_layers_weigh_the_channels_of_late_ones(tmp_path, frequencies):
    excites = ((1, 4),)
    tensors = lightweight([6, 6, 5, 4, 4], (), excites, frequencies, channels=1)
    save(tmp_path / "model_3.pt", tensors)
    best = recognised(tmp_path / "model_3.pt")
    assert dict(best.converted.details)["excitations"] == "1"
    assert (best.converted.image.height, best.converted.image.channels) == (128, 1)
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[0].module(latent(1)[None].float())
    expected = to_levels(lightweight_picture(doubles(tensors), latent(1), excites))
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1
    assert expected.std() > 20
