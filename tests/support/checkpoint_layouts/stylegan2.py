"""StyleGAN2 checkpoints with random nvidia_tensors, in the layouts of NVIDIA and rosinality."""

import math

import torch
from torch.nn import functional as F

from tests.support.checkpoints import pickled_network, random_tensors, write_nvidia_pickle

W, Z = 16, 12
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])


def nvidia_shapes(widths, channels=3, classes=0, layers=2):
    """Return the tensor shapes of NVIDIA's layout; `layers` are those of the mapping network."""
    shapes = {"mapping.w_avg": (W,)}
    if classes:
        shapes |= {"mapping.embed.weight": (W, classes), "mapping.embed.bias": (W,)}
    for i in range(layers):
        fan_in = W if i else Z + (W if classes else 0)
        shapes |= {f"mapping.fc{i}.weight": (W, fan_in), f"mapping.fc{i}.bias": (W,)}
    for i, width in enumerate(widths):
        side, previous_width = 4 * 2**i, widths[max(i - 1, 0)]
        block = f"synthesis.b{side}"
        shapes[f"{block}.resample_filter"] = (4, 4)
        if i == 0:
            shapes[f"{block}.const"] = (width, 4, 4)
        for name, fan_in in (("conv0", previous_width), ("conv1", width)):
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


def leaky_relu(x):
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def normalize(x):
    return x / torch.sqrt(x.square().mean() + 1e-8)


def reference_mapping(t, z, label=None, rate=0.01):
    """Return w ``[W]`` of one latent, from NVIDIA's tensor names."""
    x = normalize(z)
    if label is not None:
        weight = t["mapping.embed.weight"]
        embedded = weight @ label / math.sqrt(weight.shape[1]) + t["mapping.embed.bias"]
        x = torch.cat([x, normalize(embedded)])
    i = 0
    while f"mapping.fc{i}.weight" in t:
        weight = t[f"mapping.fc{i}.weight"] * rate / math.sqrt(x.shape[0])
        x = leaky_relu(weight @ x + t[f"mapping.fc{i}.bias"] * rate)
        i += 1
    return x


def write_pickle(path, tensors, classes=0):
    """Write a network pickle of stylegan2-ada-pytorch."""
    generator = pickled_network(
        "Generator",
        tensors,
        {"": {"z_dim": Z, "c_dim": classes}, "mapping.fc0": {"bias_gain": 0.01}},
    )
    write_nvidia_pickle(path, {"G": generator, "D": None, "G_ema": generator, "augment_pipe": None})


def nvidia_tensors(widths, **options):
    """Return random weights in NVIDIA's layout, scaled so that images are not of one color."""
    tensors = random_tensors(nvidia_shapes(widths, **options))
    for name in tensors:
        if name.startswith("mapping.fc"):
            tensors[name] = tensors[name] * 100
        if name.endswith("torgb.weight"):
            tensors[name] = tensors[name] * 0.3
    return tensors


def to_rosinality(t, sides):
    """Return the same weights in rosinality's layout."""
    tensors = {"input.input": t["synthesis.b4.const"][None]}
    i = 0
    while f"mapping.fc{i}.weight" in t:
        tensors[f"style.{i + 1}.weight"] = t[f"mapping.fc{i}.weight"]
        tensors[f"style.{i + 1}.bias"] = t[f"mapping.fc{i}.bias"]
        i += 1
    index = noise = 0
    for side in sides:
        for name in ("conv0", "conv1"):
            path = f"synthesis.b{side}.{name}"
            if f"{path}.weight" not in t:
                continue
            target = "conv1" if side == 4 else f"convs.{index}"
            index += side > 4
            tensors |= {
                f"{target}.conv.weight": t[f"{path}.weight"][None],
                f"{target}.conv.modulation.weight": t[f"{path}.affine.weight"],
                f"{target}.conv.modulation.bias": t[f"{path}.affine.bias"],
                f"{target}.noise.weight": t[f"{path}.noise_strength"].reshape(1),
                f"{target}.activate.bias": t[f"{path}.bias"],
                f"noises.noise_{noise}": t[f"{path}.noise_const"][None, None],
            }
            noise += 1
        path = f"synthesis.b{side}.torgb"
        target = "to_rgb1" if side == 4 else f"to_rgbs.{sides.index(side) - 1}"
        tensors |= {
            f"{target}.conv.weight": t[f"{path}.weight"][None],
            f"{target}.conv.modulation.weight": t[f"{path}.affine.weight"],
            f"{target}.conv.modulation.bias": t[f"{path}.affine.bias"],
            f"{target}.bias": t[f"{path}.bias"][None, :, None, None],
        }
        if side > 4:
            tensors[f"{target}.upsample.kernel"] = torch.outer(TAPS, TAPS) / 16
            tensors[f"convs.{index - 2}.conv.blur.kernel"] = torch.outer(TAPS, TAPS) / 16
    return tensors
