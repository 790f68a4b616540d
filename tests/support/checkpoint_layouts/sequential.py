"""Tensor shapes of DCGANs and multilayer perceptrons."""

from itertools import pairwise

NORM = ("weight", "bias", "running_mean", "running_var")


def dcgan_shapes(z, widths, channels, *, gap=3, first=4, bias=False, normalized=True):
    """Return the shapes of PyTorch's DCGAN example.

    `gap` is the distance in indices from one convolution to the next, `first` the kernel size of
    the first convolution.
    """
    shapes, fan_in = {}, z
    for i, width in enumerate((*widths, channels)):
        size = first if i == 0 else 4
        shapes[f"main.{gap * i}.weight"] = (fan_in, width, size, size)
        if bias:
            shapes[f"main.{gap * i}.bias"] = (width,)
        if i < len(widths) and normalized:
            shapes |= {f"main.{gap * i + 1}.{name}": (width,) for name in NORM}
            shapes[f"main.{gap * i + 1}.num_batches_tracked"] = ()
        fan_in = width
    return shapes


def mlp_shapes(sizes, *, normalized=()):
    """Return the shapes of linear layers; those of the widths `normalized` have batch norms."""
    shapes, index = {}, 0
    for fan_in, width in pairwise(sizes):
        shapes[f"model.{index}.weight"] = (width, fan_in)
        shapes[f"model.{index}.bias"] = (width,)
        index += 1
        if width in normalized:
            shapes |= {f"model.{index}.{name}": (width,) for name in NORM}
            shapes[f"model.{index}.num_batches_tracked"] = ()
            index += 1
        index += 1
    return shapes
