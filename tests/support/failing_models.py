"""A model whose class selects a failure, which happens in ONNX Runtime itself.

`fine` returns an image. `slow` returns one after a while, `hangs` never returns, and `raises`
fails. A single `hungry` row succeeds; two in one batch exceed the memory.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import MANIFEST_FILE, Manifest, file_sha256
from service.runtime.models.parts.graphs import GENERATOR, Graph
from service.runtime.models.parts.latent import LatentSpace
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import ImportProvenance

CLASSES = ("fine", "slow", "hangs", "raises", "hungry")
Z, SIZE = 8, 16
# Iterations of an empty loop: a quarter of a second or more, and some years.
SLOW_ITERATIONS, ENDLESS_ITERATIONS = 300_000, 2**60
# Bytes that two hungry rows allocate: more than any machine has.
EXCESSIVE_BYTES = 2**46


def write_failing(folder: Path, *, seed: int = 0, slow_iterations: int = SLOW_ITERATIONS) -> Path:
    """Write the model into `folder` (``<name>/<version>``) and return the folder."""
    folder.mkdir(parents=True)
    graph = write_graph(folder / "generator.onnx", seed, slow_iterations)
    manifest = Manifest(
        name=folder.parent.name,
        version=folder.name,
        task="generate",
        summary="Fails as its class requests.",
        graphs={GENERATOR: graph},
        image=ImageSpec(height=SIZE, width=SIZE, channels=1),
        latent=LatentSpace(dimension=Z),
        classes=CLASSES,
        provenance=ImportProvenance(
            format="test",
            source_file="tests/support/failing_models.py",
            source_sha256="0" * 64,
            importer_version="1",
        ),
        license="Apache-2.0",
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


def write_graph(path: Path, seed: int = 0, slow_iterations: int = SLOW_ITERATIONS) -> Graph:
    weights = np.random.default_rng(seed).normal(size=(Z, SIZE * SIZE)).astype(np.float32)
    constants = {
        "weights": weights,
        "shape": np.array([-1, SIZE, SIZE, 1]),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "one_dim": np.array([1]),
        "zeros": np.zeros(1, np.float32),
        "far": np.array(10**6),
        "values_per_row": np.array(EXCESSIVE_BYTES // 4),
        "yes": np.array(True),
        "max_level": np.float32(255),
        # Iterations of the loop, by class.
        "iterations_of": np.array([0, slow_iterations, ENDLESS_ITERATIONS, 0, 0]),
        "raises": np.array(CLASSES.index("raises")),
        "hungry": np.array(CLASSES.index("hungry")),
    }
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Identity", ["condition"], ["go_on"]),
            node("Add", ["count", "loop_one"], ["counted"]),
        ],
        "iteration_body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("counted", TensorProto.INT64, []),
        ],
        [numpy_helper.from_array(np.array(1), "loop_one")],
    )
    nodes = [
        # The slowest row determines the number of iterations.
        node("Gather", ["iterations_of", "class_index"], ["iterations"]),
        node("ReduceMax", ["iterations"], ["max_iterations"], keepdims=0),
        node("Loop", ["max_iterations", "yes", "zero"], ["iterated"], body=body),
        # A row of the class `raises` gathers with an index out of bounds.
        node("Equal", ["class_index", "raises"], ["is_raising"]),
        node("Cast", ["is_raising"], ["raising"], to=TensorProto.INT64),
        node("Mul", ["raising", "far"], ["index"]),
        node("Gather", ["zeros", "index"], ["gathered"]),
        # Allocates memory for every hungry row except the first.
        node("Equal", ["class_index", "hungry"], ["is_hungry"]),
        node("Cast", ["is_hungry"], ["hungry_rows"], to=TensorProto.INT64),
        node("ReduceSum", ["hungry_rows"], ["hungry_count"], keepdims=0),
        node("Sub", ["hungry_count", "one"], ["excess"]),
        node("Max", ["excess", "zero"], ["excess_rows"]),
        node("Mul", ["excess_rows", "values_per_row"], ["numbers"]),
        node("Reshape", ["numbers", "one_dim"], ["size"]),
        node("ConstantOfShape", ["size"], ["allocated"]),
        node("ReduceSum", ["allocated"], ["allocated_sum"], keepdims=0),
        # The image. The results above are all 0 and are added so that they are computed.
        node("Unsqueeze", ["gathered", "one_dim"], ["column"]),
        node("MatMul", ["z", "weights"], ["values"]),
        node("Add", ["values", "column"], ["values_1"]),
        node("Add", ["values_1", "allocated_sum"], ["values_2"]),
        node("Cast", ["iterated"], ["iterated_float"], to=TensorProto.FLOAT),
        node("Min", ["iterated_float", "zeros"], ["iterated_zero"]),
        node("Add", ["values_2", "iterated_zero"], ["values_3"]),
        node("Sigmoid", ["values_3"], ["sigmoid"]),
        node("Mul", ["sigmoid", "max_level"], ["levels"]),
        node("Round", ["levels"], ["rounded"]),
        node("Reshape", ["rounded", "shape"], ["shaped"]),
        node("Cast", ["shaped"], ["pixels"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "failing",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", Z]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIZE, SIZE, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Graph(
        file=path.name, sha256=file_sha256(path), inputs=["z", "class_index"], outputs=["pixels"]
    )
