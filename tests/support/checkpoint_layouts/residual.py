"""Tensor shapes of CycleGAN checkpoints."""

WIDTH = 4


def batch_norm_shapes(width):
    return {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,)),
        "num_batches_tracked": (),
    }


NORMS = {
    # "instance" has no tensors. In PyTorch 0.3 it had statistics, which are not used.
    "instance": lambda _: {},
    "instance, old": lambda width: {"running_mean": (width,), "running_var": (width,)},
    "affine": lambda width: {"weight": (width,), "bias": (width,)},
    "batch": batch_norm_shapes,
}


def resnet_shapes(
    blocks, *, norm="instance", dropout=False, in_channels=3, out_channels=3, resize_conv=False
):
    """Return the shapes of `ResnetGenerator` in pytorch-CycleGAN-and-pix2pix."""
    shapes = {}

    def convolution(path, fan_in, width, size, *, transposed=False, bias=norm != "batch"):
        order = (fan_in, width) if transposed else (width, fan_in)
        shapes[f"{path}.weight"] = (*order, size, size)
        if bias:
            shapes[f"{path}.bias"] = (width,)

    def normalized(path, width):
        shapes.update({f"{path}.{name}": shape for name, shape in NORMS[norm](width).items()})

    convolution("model.1", in_channels, WIDTH, 7)
    normalized("model.2", WIDTH)
    for index, width in ((4, WIDTH), (7, 2 * WIDTH)):
        convolution(f"model.{index}", width, 2 * width, 3)
        normalized(f"model.{index + 1}", 2 * width)
    for block in range(10, 10 + blocks):
        for index in (1, 6 if dropout else 5):
            convolution(f"model.{block}.conv_block.{index}", 4 * WIDTH, 4 * WIDTH, 3)
            normalized(f"model.{block}.conv_block.{index + 1}", 4 * WIDTH)
    index = 10 + blocks
    for width in (4 * WIDTH, 2 * WIDTH):
        # An `Upsample` before a convolution has an index of its own.
        index += resize_conv
        convolution(f"model.{index}", width, width // 2, 3, transposed=not resize_conv)
        normalized(f"model.{index + 1}", width // 2)
        index += 3
    convolution(f"model.{index + 1}", WIDTH, out_channels, 7, bias=True)
    return shapes
