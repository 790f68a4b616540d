"""Tensor shapes of PyTorch-GAN checkpoints."""

Z, WIDTH, START = 6, 8, 4
NORM = ("weight", "bias", "running_mean", "running_var")


def pytorch_gan_shapes(channels=1, embedding=None):
    """Return the shapes of `Generator` in dcgan.py, or with a class embedding those of acgan.py."""
    shapes = {} if embedding is None else {"label_emb.weight": embedding}
    label_inputs = 0 if embedding is None or embedding[1] == Z else embedding[1]
    shapes |= {
        "l1.0.weight": (WIDTH * START**2, Z + label_inputs),
        "l1.0.bias": (WIDTH * START**2,),
    }
    convolutions = {2: (WIDTH, WIDTH), 6: (WIDTH, WIDTH // 2), 9: (WIDTH // 2, channels)}
    for index, width in ((0, WIDTH), (3, WIDTH), (7, WIDTH // 2)):
        if index - 1 in convolutions:
            shapes |= convolution_shapes(index - 1, *convolutions.pop(index - 1))
        shapes |= {f"conv_blocks.{index}.{name}": (width,) for name in NORM}
        shapes[f"conv_blocks.{index}.num_batches_tracked"] = ()
    return shapes | convolution_shapes(9, *convolutions.pop(9))


def convolution_shapes(index, fan_in, width):
    path = f"conv_blocks.{index}"
    return {f"{path}.weight": (width, fan_in, 3, 3), f"{path}.bias": (width,)}
