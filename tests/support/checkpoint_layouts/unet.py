"""Tensor shapes of pix2pix checkpoints."""

WIDTH = 2


def block_shapes(path, widths, *, instance, dropout, outermost=True, in_channels=3, out_channels=3):
    """Return the shapes of nested `UnetSkipConnectionBlock` modules."""
    own, inner = widths[0], widths[1:]
    shapes = {}

    def convolution(index, shape, *, bias=instance):
        shapes[f"{path}.{index}.weight"] = (*shape, 4, 4)
        if bias:
            shapes[f"{path}.{index}.bias"] = (shape[0] if index == down else shape[1],)

    def normalized(index, width):
        if not instance:
            names = ("weight", "bias", "running_mean", "running_var")
            shapes.update({f"{path}.{index}.{name}": (width,) for name in names})
            shapes[f"{path}.{index}.num_batches_tracked"] = ()

    down = 0 if outermost else 1
    convolution(down, (own, in_channels))
    if outermost:
        shapes |= block_shapes(
            f"{path}.1.model", inner, instance=instance, dropout=dropout,
            outermost=False, in_channels=own, out_channels=own,
        )  # fmt: skip
        convolution(3, (2 * own, out_channels), bias=True)
    elif inner:
        normalized(2, own)
        shapes |= block_shapes(
            f"{path}.3.model", inner, instance=instance, dropout=dropout,
            outermost=False, in_channels=own, out_channels=own,
        )  # fmt: skip
        convolution(5, (2 * own, out_channels))
        normalized(6, out_channels)
    else:
        convolution(3, (own, out_channels))
        normalized(4, out_channels)
    return shapes


def unet_shapes(levels, **variant):
    """Return the shapes of `UnetGenerator`. Widths double at the first three levels."""
    widths = [WIDTH * min(2**i, 8) for i in range(levels)]
    return block_shapes("model.model", widths, **variant)
