"""Tensor shapes of ESRGAN and Real-ESRGAN checkpoints."""

WIDTH, GROWTH, BLOCKS = 6, 3, 2


def rrdb_shapes(in_channels=3, out_channels=3, doublings=2):
    """Return the shapes of `RRDBNet` in BasicSR."""
    shapes = {}

    def convolution(path, fan_in, width):
        shapes[f"{path}.weight"] = (width, fan_in, 3, 3)
        shapes[f"{path}.bias"] = (width,)

    convolution("conv_first", in_channels, WIDTH)
    for block in range(BLOCKS):
        for dense in range(1, 4):
            for i in range(1, 6):
                width = WIDTH if i == 5 else GROWTH
                path = f"body.{block}.rdb{dense}.conv{i}"
                convolution(path, WIDTH + (i - 1) * GROWTH, width)
    convolution("conv_body", WIDTH, WIDTH)
    for i in range(1, doublings + 1):
        convolution(f"conv_up{i}", WIDTH, WIDTH)
    convolution("conv_hr", WIDTH, WIDTH)
    convolution("conv_last", WIDTH, out_channels)
    return shapes
