"""StyleGAN3 pickles with random weights, and a float64 reference of the synthesis network."""

import math

import numpy as np
import torch
from scipy import signal, special
from torch.nn import functional as F

from tests.support.checkpoints import pickled_network, random_tensors, write_nvidia_pickle

W, Z = 16, 12
SIDE, MARGIN, LAYERS, CRITICAL = 32, 10, 3, 1
FIRST_CUTOFF, FIRST_STOPBAND = 2.0, 2**2.1
WIDTHS = [8, 7, 6, 3]


def layer_parameters():
    """Return cutoffs, sampling rates, half widths and sides of the layers, as in section 3.2."""
    steps = np.minimum(np.arange(LAYERS + 1) / (LAYERS - CRITICAL), 1)
    cutoffs = FIRST_CUTOFF * (SIDE / 2 / FIRST_CUTOFF) ** steps
    stopbands = FIRST_STOPBAND * (SIDE / 2 * 2**0.3 / FIRST_STOPBAND) ** steps
    rates = 2 ** np.ceil(np.log2(np.minimum(2 * stopbands, SIDE)))
    sides = rates + 2 * MARGIN
    sides[-2:] = SIDE
    return cutoffs, rates, np.maximum(stopbands, rates / 2) - cutoffs, sides.astype(int)


def low_pass(taps, cutoff, half_width, rate, *, radial):
    """Return a Kaiser low-pass filter ``[taps]``, or a radial one ``[taps, taps]``."""
    if not radial:
        return signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(x, x[:, None])
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 4 * half_width / rate))
    window = np.kaiser(taps, beta)
    outputs = special.j1(2 * cutoff * math.pi * r) / r * window * window[:, None]
    return outputs / outputs.sum()


def layer_configs():
    """Yield name, widths, sides, input and internal sampling rate, and number of each layer."""
    _, rates, _, sides = layer_parameters()
    for i in range(LAYERS + 1):
        previous = max(i - 1, 0)
        internal_rate = max(rates[previous], rates[i]) * (1 if i == LAYERS else 2)
        name = f"synthesis.L{i}_{sides[i]}_{WIDTHS[i]}"
        yield (
            name,
            WIDTHS[previous],
            WIDTHS[i],
            sides[previous],
            sides[i],
            rates[previous],
            internal_rate,
            i,
        )


def pickle_content(configuration, classes=0):
    """Return the tensors of a pickle and the attributes of its modules, both by path."""
    kernel = 3 if configuration == "t" else 1
    cutoffs, rates, half_widths, sides = layer_parameters()
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
    for name, fan_in, fan_out, *_, i in layer_configs():
        size = 1 if i == LAYERS else kernel
        shapes |= {
            f"{name}.weight": (fan_out, fan_in, size, size),
            f"{name}.bias": (fan_out,),
            f"{name}.affine.weight": (fan_in, W),
            f"{name}.affine.bias": (fan_in,),
        }
    tensors = random_tensors(shapes)
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
    for name, _, _, side_in, side_out, rate, internal_rate, i in layer_configs():
        up, down = internal_rate / rate, internal_rate / rates[i]
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
        previous = max(i - 1, 0)
        radial = configuration == "r" and i < LAYERS - CRITICAL
        upward = low_pass(
            6 * int(up), cutoffs[previous], half_widths[previous], internal_rate, radial=False
        )
        downward = low_pass(6 * int(down), cutoffs[i], half_widths[i], internal_rate, radial=radial)
        # Slightly asymmetric, so that a flipped filter is detected.
        for direction, symmetric in (("up", upward), ("down", downward)):
            taps = symmetric * np.linspace(0.8, 1.2, symmetric.shape[-1])
            tensors[f"{name}.{direction}_filter"] = torch.tensor(taps, dtype=torch.float32)
    # As in training, set the magnitudes to those of the layers' inputs.
    rng = torch.Generator().manual_seed(5)
    reference_synthesis(tensors, torch.randn(LAYERS + 2, W, generator=rng))
    return tensors, modules


def sample_positions(count, rate):
    """Return the coordinates of `count` samples; the image is from -0.5 to 0.5."""
    return (np.arange(count) + 0.5 - count / 2) / rate


def resampling_matrix(taps, rate, targets, sources):
    """Return the matrix that filters samples at `sources` and evaluates the result at `targets`."""
    offsets = (targets[:, None] - sources) * rate + (len(taps) - 1) / 2
    index = np.rint(offsets).astype(int)
    assert np.abs(offsets - index).max() < 1e-6
    inside = (index >= 0) & (index < len(taps))
    return torch.tensor(np.where(inside, taps[index.clip(0, len(taps) - 1)], 0))


def filtered_leaky_relu(x, up_taps, down_taps, side_out, rate, internal_rate, rate_out, clamp):
    """Apply LeakyReLU to ``[C, H, W]`` at a higher sampling rate, between two filters."""
    sources = sample_positions(x.shape[-1], rate)
    needed = sample_positions(
        int((side_out - 1) * internal_rate / rate_out) + len(down_taps), internal_rate
    )
    up = resampling_matrix(up_taps, internal_rate, needed, sources) * (internal_rate / rate)
    x = up @ x @ up.T
    x = (F.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-clamp, clamp)
    targets = sample_positions(side_out, rate_out)
    if down_taps.ndim == 1:
        down = resampling_matrix(down_taps, internal_rate, targets, needed)
        return down @ x @ down.T
    step = int(internal_rate / rate_out)
    outputs = [signal.convolve2d(each, down_taps, "valid")[::step, ::step] for each in x.numpy()]
    return torch.tensor(np.stack(outputs))


def reference_synthesis(tensors, w, transform=None, clamps=(256.0, 3.0, 256.0, 256.0), scale=0.5):
    """Return the image of w ``[layers, W]``. Without a transform, also set the magnitudes."""
    t = {name: value.double() for name, value in tensors.items()}
    w = w.double()

    def style_of(path, w):
        return t[f"{path}.affine.weight"] @ w / math.sqrt(W) + t[f"{path}.affine.bias"]

    _, rates, _, sides = layer_parameters()
    c, s, right, down = style_of("synthesis.input", w[0])
    length = torch.hypot(c, s)
    c, s, right, down = (float(each / length) for each in (c, s, right, down))
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    translation = np.array([[1, 0, -right], [0, 1, -down], [0, 0, 1]])
    matrix = rotation @ translation @ (np.eye(3) if transform is None else transform)
    positions = sample_positions(sides[0], rates[0])
    points = np.stack(np.broadcast_arrays(positions, positions[:, None], 1.0), -1) @ matrix.T
    frequencies = t["synthesis.input.freqs"].numpy()
    waves = points[..., :2] @ frequencies.T + t["synthesis.input.phases"].numpy()
    radius = np.linalg.norm(frequencies @ matrix[:2, :2], axis=1)
    fade = np.clip(1 - (radius - FIRST_CUTOFF) / (rates[0] / 2 - FIRST_CUTOFF), 0, 1)
    x = np.sin(2 * math.pi * waves) * fade
    x = torch.tensor(x @ t["synthesis.input.weight"].numpy().T / math.sqrt(WIDTHS[0]))
    x = x.permute(2, 0, 1)
    for path, fan_in, _, _, side_out, rate, internal_rate, i in layer_configs():
        weight, style = t[f"{path}.weight"], style_of(path, w[i + 1])
        if transform is None:
            tensors[f"{path}.magnitude_ema"] = x.square().mean().float()
            t[f"{path}.magnitude_ema"] = x.square().mean()
        gain = torch.rsqrt(t[f"{path}.magnitude_ema"])
        if i == LAYERS:
            modulated = weight * style[:, None, None] / math.sqrt(fan_in) * gain
            x = F.conv2d(x[None], modulated)[0] + t[f"{path}.bias"][:, None, None]
            return x.clamp(-clamps[i], clamps[i]) * scale
        modulated = weight * style[:, None, None]
        modulated = modulated / modulated.square().sum((1, 2, 3), keepdim=True).sqrt() * gain
        x = F.conv2d(x[None], modulated, padding=weight.shape[2] - 1)[0]
        x = x + t[f"{path}.bias"][:, None, None]
        up, down = (t[f"{path}.{direction}_filter"].numpy() for direction in ("up", "down"))
        x = filtered_leaky_relu(x, up, down, side_out, rate, internal_rate, rates[i], clamps[i])
    raise AssertionError("unreachable: the last layer returns")


def write_pickle(path, tensors, modules):
    """Write a network pickle of stylegan3."""
    generator = pickled_network("Generator", tensors, modules)
    write_nvidia_pickle(path, {"G": generator, "D": None, "G_ema": generator, "augment_pipe": None})
