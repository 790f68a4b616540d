"""Tensor shapes of SRGAN checkpoints."""

WIDTH = 4


def srgan_shapes(blocks=2, doublings=1, *, normalized=False):
    """Return the shapes of `Generator` in leftthomas/SRGAN."""
    shapes = {}

    def convolution(path, fan_in, width, size):
        shapes[f"{path}.weight"] = (width, fan_in, size, size)
        shapes[f"{path}.bias"] = (width,)

    def batch_norm(path):
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{path}.{name}"] = (WIDTH,)
        shapes[f"{path}.num_batches_tracked"] = ()

    convolution("block1.0", 3, WIDTH, 9)
    shapes["block1.1.weight"] = (1,)
    for i in range(2, blocks + 2):
        convolution(f"block{i}.conv1", WIDTH, WIDTH, 3)
        batch_norm(f"block{i}.bn1")
        shapes[f"block{i}.prelu.weight"] = (1,)
        convolution(f"block{i}.conv2", WIDTH, WIDTH, 3)
        batch_norm(f"block{i}.bn2")
    convolution(f"block{blocks + 2}.0", WIDTH, WIDTH, 3)
    if normalized:
        batch_norm(f"block{blocks + 2}.1")
    else:
        shapes[f"block{blocks + 2}.1.weight"] = (1,)
    for i in range(doublings):
        convolution(f"block{blocks + 3}.{i}.conv", WIDTH, 4 * WIDTH, 3)
        shapes[f"block{blocks + 3}.{i}.prelu.weight"] = (1,)
    convolution(f"block{blocks + 3}.{doublings}", WIDTH, 3, 9)
    return shapes
