"""A small ONNX graph of a generator."""

import numpy as np
import onnx
from onnx import numpy_helper, parser


def write_graph(path):
    """Write a graph from z to images in [-1, 1]."""
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    gen (float[N,6] z) => (float[N,3,5,5] images) {
        hidden = MatMul (z, w)
        shaped = Reshape (hidden, shape)
        convolved = Conv <kernel_shape = [1, 1]> (shaped, c)
        images = Tanh (convolved)
    }""")
    rng = np.random.default_rng(0)
    for name, value in {
        "w": rng.normal(size=(6, 75)).astype(np.float32),
        "c": rng.normal(size=(3, 3, 1, 1)).astype(np.float32),
        "shape": np.array([-1, 3, 5, 5]),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, path)
