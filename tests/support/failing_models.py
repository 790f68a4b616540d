"""A model that fails when it is told to, by its class, and does so in ONNX Runtime itself.

`fine` makes a picture; `slow` takes a while first, `hangs` never ends, `raises` makes the run fail,
and of `hungry` one row fits into the memory and two in one batch do not.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import (
    GENERATOR,
    MANIFEST_FILE,
    Graph,
    ImageSpec,
    ImportProvenance,
    LatentSpace,
    Manifest,
    file_sha256,
)

CLASSES = ("fine", "slow", "hangs", "raises", "hungry")
Z, SIZE = 8, 16
# Turns of an empty loop: some seconds, and some years.
SLOW_TURNS, ENDLESS_TURNS = 300_000, 2**60
# Two rows ask for this many bytes: more than any machine has.
TOO_MUCH = 2**46


def write_failing(folder: Path, *, seed: int = 0, slow_turns: int = SLOW_TURNS) -> Path:
    """Write the model into `folder`, which is ``<name>/<version>``; return it."""
    folder.mkdir(parents=True)
    graph = write_graph(folder / "generator.onnx", seed, slow_turns)
    manifest = Manifest(
        name=folder.parent.name,
        version=folder.name,
        task="generate",
        summary="Fails when it is told to.",
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


def write_graph(path: Path, seed: int = 0, slow_turns: int = SLOW_TURNS) -> Graph:
    weights = np.random.default_rng(seed).normal(size=(Z, SIZE * SIZE)).astype(np.float32)
    constants = {
        "weights": weights,
        "shape": np.array([-1, SIZE, SIZE, 1]),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "one_dim": np.array([1]),
        "nothing": np.zeros(1, np.float32),
        "far": np.array(10**6),
        "many": np.array(TOO_MUCH // 4),
        "yes": np.array(True),
        "light": np.float32(255),
        # Of each class: how often the loop turns.
        "turns_of": np.array([0, slow_turns, ENDLESS_TURNS, 0, 0]),
        "raises": np.array(CLASSES.index("raises")),
        "hungry": np.array(CLASSES.index("hungry")),
    }
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Identity", ["condition"], ["go_on"]),
            node("Add", ["count", "loop_one"], ["counted"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
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
        # Turns as often as the slowest row says.
        node("Gather", ["turns_of", "class_index"], ["turns"]),
        node("ReduceMax", ["turns"], ["most"], keepdims=0),
        node("Loop", ["most", "yes", "zero"], ["turned"], body=body),
        # An index out of bounds, for a row that raises.
        node("Equal", ["class_index", "raises"], ["is_raising"]),
        node("Cast", ["is_raising"], ["raising"], to=TensorProto.INT64),
        node("Mul", ["raising", "far"], ["index"]),
        node("Gather", ["nothing", "index"], ["gathered"]),
        # Memory for every hungry row but the first.
        node("Equal", ["class_index", "hungry"], ["is_hungry"]),
        node("Cast", ["is_hungry"], ["hungers"], to=TensorProto.INT64),
        node("ReduceSum", ["hungers"], ["hunger"], keepdims=0),
        node("Sub", ["hunger", "one"], ["others"]),
        node("Max", ["others", "zero"], ["too_many"]),
        node("Mul", ["too_many", "many"], ["numbers"]),
        node("Reshape", ["numbers", "one_dim"], ["size"]),
        node("ConstantOfShape", ["size"], ["eaten"]),
        node("ReduceSum", ["eaten"], ["nought"], keepdims=0),
        # The picture, to which all of this adds nothing.
        node("Unsqueeze", ["gathered", "one_dim"], ["column"]),
        node("MatMul", ["z", "weights"], ["values"]),
        node("Add", ["values", "column"], ["values_1"]),
        node("Add", ["values_1", "nought"], ["values_2"]),
        node("Cast", ["turned"], ["turned_real"], to=TensorProto.FLOAT),
        node("Min", ["turned_real", "nothing"], ["turned_nought"]),
        node("Add", ["values_2", "turned_nought"], ["values_3"]),
        node("Sigmoid", ["values_3"], ["bright"]),
        node("Mul", ["bright", "light"], ["levels"]),
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
