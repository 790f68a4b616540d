"""Tensor shapes of Real-ESRGAN compact checkpoints."""

WIDTH = 6


def compact_shapes(inner=3, factor=4, channels=3):
    """Return the shapes of `SRVGGNetCompact`, which alternates convolutions and PReLU."""
    shapes = {}
    for i in range(inner + 2):
        width = channels * factor**2 if i == inner + 1 else WIDTH
        shapes[f"body.{2 * i}.weight"] = (width, channels if i == 0 else WIDTH, 3, 3)
        shapes[f"body.{2 * i}.bias"] = (width,)
        if i <= inner:
            shapes[f"body.{2 * i + 1}.weight"] = (WIDTH,)
    return shapes
