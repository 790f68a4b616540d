"""Tensor shapes of AnimeGANv2 checkpoints."""

WIDTH = 2
# Fan-in and width (in units of WIDTH), kernel and stride of each `ConvNormLReLU`.
LAYERS = {
    "block_a.0": (None, 1, 7, 1),
    "block_a.1": (1, 2, 3, 2),
    "block_a.2": (2, 2, 3, 1),
    "block_b.0": (2, 4, 3, 2),
    "block_b.1": (4, 4, 3, 1),
    "block_c.0": (4, 4, 3, 1),
    "block_d.0": (4, 4, 3, 1),
    "block_d.1": (4, 4, 3, 1),
    "block_e.0": (4, 2, 3, 1),
    "block_e.1": (2, 2, 3, 1),
    "block_e.2": (2, 1, 7, 1),
}


def anime_shapes(blocks=4, channels=3):
    """Return the shapes of `Generator` in animegan2-pytorch."""
    shapes = {}

    def norm(path, width):
        shapes[f"{path}.weight"] = shapes[f"{path}.bias"] = (width,)

    def conv_norm(path, fan_in, width, size):
        shapes[f"{path}.1.weight"] = (width, fan_in, size, size)
        norm(f"{path}.2", width)

    for path, (fan_in, width, size, _) in LAYERS.items():
        if path == "block_d.0":
            for i in range(1, blocks + 1):
                block_inputs, inner = (4 if i == 1 else 8) * WIDTH, (8 if i == 1 else 16) * WIDTH
                conv_norm(f"block_c.{i}.layers.0", block_inputs, inner, 1)
                shapes[f"block_c.{i}.layers.1.1.weight"] = (inner, 1, 3, 3)
                shapes[f"block_c.{i}.layers.1.1.bias"] = (inner,)
                norm(f"block_c.{i}.layers.1.2", inner)
                shapes[f"block_c.{i}.layers.2.weight"] = (8 * WIDTH, inner, 1, 1)
                norm(f"block_c.{i}.layers.3", 8 * WIDTH)
            conv_norm(f"block_c.{blocks + 1}", 8 * WIDTH, 4 * WIDTH, 3)
        conv_norm(path, channels if fan_in is None else fan_in * WIDTH, width * WIDTH, size)
    shapes["out_layer.0.weight"] = (channels, WIDTH, 1, 1)
    return shapes
