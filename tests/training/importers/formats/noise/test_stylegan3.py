"""StyleGAN3's pickles beside an evaluation in float64 that knows signals and not our network.

A filter is a matrix from samples at their places to samples at others, and a modulated convolution
has weights of its own for each picture.
"""

import math

import numpy as np
import pytest
import torch
from scipy import signal, special
from torch.nn import functional as F

from service.runtime.latent import seeds
from tests.support.checkpoints import drawn, imported, nested, recognised, to_levels, write_nvidia
from tests.training.importers.formats.noise.test_stylegan2 import mapped
from training.importers.errors import ModelImportError

W, Z = 16, 12
SIDE, MARGIN, LAYERS, CRITICAL = 32, 10, 3, 1
FIRST_CUTOFF, FIRST_STOPBAND = 2.0, 2**2.1
WIDTHS = [8, 7, 6, 3]
TURNED = np.array([[0.8, -0.6, 0.2], [0.6, 0.8, -0.1], [0, 0, 1]], np.float32)


def progression():
    """Cutoffs, sampling rates, half widths and sides of the layers, by section 3.2."""
    steps = np.minimum(np.arange(LAYERS + 1) / (LAYERS - CRITICAL), 1)
    cutoffs = FIRST_CUTOFF * (SIDE / 2 / FIRST_CUTOFF) ** steps
    stopbands = FIRST_STOPBAND * (SIDE / 2 * 2**0.3 / FIRST_STOPBAND) ** steps
    rates = 2 ** np.ceil(np.log2(np.minimum(2 * stopbands, SIDE)))
    sides = rates + 2 * MARGIN
    sides[-2:] = SIDE
    return cutoffs, rates, np.maximum(stopbands, rates / 2) - cutoffs, sides.astype(int)


def low_pass(taps, cutoff, half_width, rate, *, radial):
    if not radial:
        return signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(x, x[:, None])
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 4 * half_width / rate))
    window = np.kaiser(taps, beta)
    made = special.j1(2 * cutoff * math.pi * r) / r * window * window[:, None]
    return made / made.sum()


def layers():
    """For each layer: its name, widths, sides, and rates: in, between and out."""
    _, rates, _, sides = progression()
    for i in range(LAYERS + 1):
        before = max(i - 1, 0)
        between = max(rates[before], rates[i]) * (1 if i == LAYERS else 2)
        name = f"synthesis.L{i}_{sides[i]}_{WIDTHS[i]}"
        yield name, WIDTHS[before], WIDTHS[i], sides[before], sides[i], rates[before], between, i


def layout(configuration, classes=0):
    """Tensors by the published names, and what the modules say of themselves."""
    kernel = 3 if configuration == "t" else 1
    cutoffs, rates, half_widths, sides = progression()
    shapes = {"mapping.w_avg": (W,)}
    if classes:
        shapes |= {"mapping.embed.weight": (W, classes), "mapping.embed.bias": (W,)}
    for i, fan_in in enumerate((Z + (W if classes else 0), W)):
        shapes |= {f"mapping.fc{i}.weight": (W, fan_in), f"mapping.fc{i}.bias": (W,)}
    first = WIDTHS[0]
    shapes |= {
        "synthesis.input.weight": (first, first),
        "synthesis.input.affine.weight": (4, W),
        "synthesis.input.affine.bias": (4,),
        "synthesis.input.freqs": (first, 2),
        "synthesis.input.phases": (first,),
    }
    for name, fan_in, fan_out, *_, i in layers():
        size = 1 if i == LAYERS else kernel
        shapes |= {
            f"{name}.weight": (fan_out, fan_in, size, size),
            f"{name}.bias": (fan_out,),
            f"{name}.affine.weight": (fan_in, W),
            f"{name}.affine.bias": (fan_in,),
        }
    tensors = drawn(shapes)
    modules = {
        "": {"z_dim": Z, "c_dim": classes, "img_resolution": SIDE},
        "synthesis": {"margin_size": MARGIN, "num_critical": CRITICAL, "output_scale": 0.5},
        "synthesis.input": {
            "size": np.array([sides[0]] * 2),
            "sampling_rate": rates[0],
            "bandwidth": np.float64(FIRST_CUTOFF),
        },
        "mapping.fc0": {"bias_gain": 0.01},
    }
    for name in tensors:
        if name.startswith("mapping.fc"):
            tensors[name] *= 100
    tensors["mapping.w_avg"] *= 0.3
    tensors["synthesis.input.transform"] = torch.eye(3)
    for name, _, _, side_in, side_out, rate, between, i in layers():
        up, down = between / rate, between / rates[i]
        modules[name] = {
            "in_size": np.array([side_in] * 2),
            "out_size": np.array([side_out] * 2),
            "conv_kernel": 1 if i == LAYERS else kernel,
            "conv_clamp": 3.0 if i == 1 else 256.0,
            "up_factor": int(up),
            "down_factor": int(down),
            "out_cutoff": cutoffs[i],
        }
        tensors[f"{name}.magnitude_ema"] = torch.ones(())
        if i == LAYERS:
            continue
        before = max(i - 1, 0)
        radial = configuration == "r" and i < LAYERS - CRITICAL
        upward = low_pass(6 * int(up), cutoffs[before], half_widths[before], between, radial=False)
        downward = low_pass(6 * int(down), cutoffs[i], half_widths[i], between, radial=radial)
        # Not quite symmetric, so that one the wrong way round shows.
        for way, even in (("up", upward), ("down", downward)):
            taps = even * np.linspace(0.8, 1.2, even.shape[-1])
            tensors[f"{name}.{way}_filter"] = torch.tensor(taps, dtype=torch.float32)
    # As in training: the magnitudes are those that the layers are given.
    synthesised(tensors, torch.randn(LAYERS + 2, W, generator=torch.Generator().manual_seed(5)))
    return tensors, modules


def places(count, rate):
    """Where samples are, in a picture from -0.5 to 0.5."""
    return (np.arange(count) + 0.5 - count / 2) / rate


def resampling(taps, rate, to, of):
    """The matrix that filters samples at the places `of` and takes those at `to`."""
    away = (to[:, None] - of) * rate + (len(taps) - 1) / 2
    index = np.rint(away).astype(int)
    assert np.abs(away - index).max() < 1e-6
    inside = (index >= 0) & (index < len(taps))
    return torch.tensor(np.where(inside, taps[index.clip(0, len(taps) - 1)], 0))


def filtered(x, up_taps, down_taps, side_out, rate, between, rate_out, clamp):
    """LeakyReLU at the rate `between`, of samples ``[C, H, W]`` at `rate`."""
    of = places(x.shape[-1], rate)
    needed = places(int((side_out - 1) * between / rate_out) + len(down_taps), between)
    up = resampling(up_taps, between, needed, of) * (between / rate)
    x = up @ x @ up.T
    x = (F.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-clamp, clamp)
    to = places(side_out, rate_out)
    if down_taps.ndim == 1:
        down = resampling(down_taps, between, to, needed)
        return down @ x @ down.T
    step = int(between / rate_out)
    made = [signal.convolve2d(each, down_taps, "valid")[::step, ::step] for each in x.numpy()]
    return torch.tensor(np.stack(made))


def synthesised(tensors, w, transform=None, clamps=(256.0, 3.0, 256.0, 256.0), scale=0.5):
    """The picture of w ``[layers, W]``; without a transform, the magnitudes are measured too."""
    t = {name: value.double() for name, value in tensors.items()}
    w = w.double()

    def styled(path, w):
        return t[f"{path}.affine.weight"] @ w / math.sqrt(W) + t[f"{path}.affine.bias"]

    _, rates, _, sides = progression()
    c, s, right, down = styled("synthesis.input", w[0])
    length = torch.hypot(c, s)
    c, s, right, down = (float(each / length) for each in (c, s, right, down))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    move = np.array([[1, 0, -right], [0, 1, -down], [0, 0, 1]])
    matrix = turn @ move @ (np.eye(3) if transform is None else transform)
    at = places(sides[0], rates[0])
    points = np.stack(np.broadcast_arrays(at, at[:, None], 1.0), -1) @ matrix.T
    frequencies = t["synthesis.input.freqs"].numpy()
    waves = points[..., :2] @ frequencies.T + t["synthesis.input.phases"].numpy()
    radius = np.linalg.norm(frequencies @ matrix[:2, :2], axis=1)
    fade = np.clip(1 - (radius - FIRST_CUTOFF) / (rates[0] / 2 - FIRST_CUTOFF), 0, 1)
    x = np.sin(2 * math.pi * waves) * fade
    x = torch.tensor(x @ t["synthesis.input.weight"].numpy().T / math.sqrt(WIDTHS[0]))
    x = x.permute(2, 0, 1)
    for path, fan_in, _, _, side_out, rate, between, i in layers():
        weight, style = t[f"{path}.weight"], styled(path, w[i + 1])
        if transform is None:
            tensors[f"{path}.magnitude_ema"] = x.square().mean().float()
            t[f"{path}.magnitude_ema"] = x.square().mean()
        gain = torch.rsqrt(t[f"{path}.magnitude_ema"])
        if i == LAYERS:
            own = weight * style[:, None, None] / math.sqrt(fan_in) * gain
            x = F.conv2d(x[None], own)[0] + t[f"{path}.bias"][:, None, None]
            return x.clamp(-clamps[i], clamps[i]) * scale
        own = weight * style[:, None, None]
        own = own / own.square().sum((1, 2, 3), keepdim=True).sqrt() * gain
        x = F.conv2d(x[None], own, padding=weight.shape[2] - 1)[0]
        x = x + t[f"{path}.bias"][:, None, None]
        up, down = (t[f"{path}.{way}_filter"].numpy() for way in ("up", "down"))
        x = filtered(x, up, down, side_out, rate, between, rates[i], clamps[i])
    raise AssertionError("there is a last layer")


def write_pickle(path, tensors, modules):
    generator = nested("Generator", tensors, modules)
    write_nvidia(path, {"G": generator, "D": None, "G_ema": generator, "augment_pipe": None})


def w_of(tensors, seed, psi=1.0, label=None):
    t = {name: value.double() for name, value in tensors.items()}
    w = mapped(t, torch.from_numpy(seeds.draw([seed], Z))[0].double(), label)
    return (t["mapping.w_avg"] + psi * (w - t["mapping.w_avg"])).expand(LAYERS + 2, -1)


def test_a_pickle_of_configuration_t_makes_the_pictures_of_its_weights(tmp_path):
    tensors, modules = layout("t")
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    best, model = imported(tmp_path / "network.pkl", tmp_path / "models")
    assert best.format.name == "stylegan3"
    assert dict(best.converted.details)["configuration"].startswith("T ")
    assert len(model.manifest.styles.layers) == LAYERS + 2
    assert model.manifest.styles.layers[0].group == "coarse"
    assert model.manifest.takes_transform
    made = model.generate([0, 5], None, [1.0, 0.5]).astype(int)
    for picture, seed, psi in zip(made, (0, 5), (1.0, 0.5), strict=True):
        expected = to_levels(synthesised(tensors, w_of(tensors, seed, psi), np.eye(3))[None])[0]
        assert np.abs(picture - expected).max() <= 1
        assert expected.std() > 20
    # Each layer has a style of its own, and each picture a transform.
    w = torch.randn(2, LAYERS + 2, W, generator=torch.Generator().manual_seed(3))
    transforms = np.stack([np.eye(3, dtype=np.float32), TURNED])
    made = model.synthesize(w.numpy(), transforms).astype(int)
    for i in range(2):
        expected = to_levels(synthesised(tensors, w[i], transforms[i])[None])[0]
        assert np.abs(made[i] - expected).max() <= 1
    np.testing.assert_array_equal(model.synthesize(w[:1].numpy())[0], made[0])
    assert np.abs(made[1] - model.synthesize(w[1:].numpy())[0]).mean() > 10


def test_a_class_conditional_pickle_of_configuration_r_does_too(tmp_path):
    tensors, modules = layout("r", classes=3)
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    best, model = imported(tmp_path / "network.pkl", tmp_path / "models")
    assert dict(best.converted.details)["configuration"].startswith("R ")
    assert model.manifest.classes == ("0", "1", "2")
    given = model.feeds([4, 4, 4], [0, 1, 2]) | {"transform": np.stack([TURNED] * 3)}
    made = model.run("generator", given)["pixels"].astype(int)
    for index in range(3):
        w = w_of(tensors, 4, label=F.one_hot(torch.tensor(index), 3).double())
        expected = to_levels(synthesised(tensors, w, TURNED)[None])[0]
        assert np.abs(made[index] - expected).max() <= 1
        assert expected.std() > 20


def test_tensors_alone_are_read_with_the_authors_settings(tmp_path):
    tensors, _ = layout("t")
    torch.save({"g_ema": tensors}, tmp_path / "network.pt")
    converted = recognised(tmp_path / "network.pt").converted
    assert "as NVIDIA has it" in converted.notes[0]
    w = torch.randn(1, LAYERS + 2, W, generator=torch.Generator().manual_seed(3))
    _, images = converted.graph_specs[1].module(w, torch.from_numpy(TURNED)[None])
    expected = synthesised(tensors, w[0], TURNED, clamps=(256.0,) * 4, scale=0.25)
    torch.testing.assert_close(images[0].double(), expected, atol=1e-4, rtol=1e-4)


def test_layers_whose_sides_do_not_follow_from_each_other_are_told(tmp_path):
    tensors, modules = layout("t")
    modules[next(layers())[0]]["up_factor"] = 1
    write_pickle(tmp_path / "network.pkl", tensors, modules)
    with pytest.raises(ModelImportError, match="a layer cannot have"):
        recognised(tmp_path / "network.pkl")
