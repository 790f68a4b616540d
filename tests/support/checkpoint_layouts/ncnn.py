"""Writes the two files of ncnn networks."""

import struct

import numpy as np

FLOAT32, FP16 = 0, 0x01306B47


def write_network(path, layers, weights=()):
    """Write ``path`` (.param) from lines of layers, and the weights beside it (.bin)."""
    blobs = sum(int(line.split()[3]) for line in layers)
    path.write_text("\n".join(["7767517", f"{len(layers)} {blobs}", *layers]) + "\n")
    path.with_suffix(".bin").write_bytes(b"".join(weights))
    return path


def plain(values):
    """Values without a flag, such as a bias."""
    return np.asarray(values, "<f4").tobytes()


def float32(values):
    """A weight as float32."""
    return struct.pack("<I", FLOAT32) + plain(values)


def fp16(values):
    """A weight as fp16, padded to a multiple of 4 bytes."""
    data = np.asarray(values, "<f2").tobytes()
    return struct.pack("<I", FP16) + data + bytes(-len(data) % 4)


def table(indices, values):
    """A weight as indices into 256 values."""
    data = np.asarray(indices, np.uint8).tobytes()
    return b"\x01\x00\x00\x00" + plain(values) + data + bytes(-len(data) % 4)


def upscaler(rng, factor=2, width=6, channels=3, encode=float32):
    """The layers and the weights of a small upscaler, and the weights as arrays.

    A convolution with PReLU, a convolution, pixel shuffling, and the enlarged input is added.
    """
    first = rng.normal(0, 0.2, (width, channels, 3, 3))
    slopes = rng.uniform(0, 0.5, width)
    last = rng.normal(0, 0.1, (channels * factor**2, width, 3, 3))
    biases = [rng.normal(0, 0.1, count) for count in (width, channels * factor**2)]
    layers = [
        "Input data 0 1 data",
        "Split split 1 2 data data_0 data_1",
        f"Convolution first 1 1 data_0 a 0={width} 1=3 4=1 5=1 6={first.size}",
        f"PReLU prelu 1 1 a b 0={width}",
        f"Convolution last 1 1 b c 0={len(last)} 1=3 4=1 5=1 6={last.size}",
        f"PixelShuffle shuffle 1 1 c d 0={factor}",
        f"Interp enlarge 1 1 data_1 e 0=1 1={factor}.0 2={factor}.0",
        "BinaryOp add 2 1 d e output 0=0",
    ]
    weights = [encode(first), plain(biases[0]), plain(slopes), encode(last), plain(biases[1])]
    return layers, weights, (first, biases[0], slopes, last, biases[1])
