"""Discriminators for the models of tests/support/drawn_models.py: brighter images score higher."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import MANIFEST_FILE, file_sha256, read_manifest
from service.runtime.models.parts.additions import Discriminator, ScoreCalibration, SelectionFigure
from service.runtime.models.parts.graphs import DISCRIMINATOR, Graph
from tests.support.drawn_models import CLASSES, SIZE, write_cut, write_failing, write_models

# Added to the score for each class, so that a selection over all classes would keep only the last.
CLASS_SCORE = 1000.0
CALIBRATION = ScoreCalibration(scale=0.5, maximum=140.0, samples=100)


def write_scored_models(models: Path) -> None:
    """Write `painted`, `painted-classes` and `cut` with discriminators, and `unscored` without.

    `failing` has one, too: the generator fails for about half of the seeds.
    """
    write_models(models)
    write_failing(models / "failing" / "1")
    for folder in models.glob("*/1"):
        add_brightness_score(folder)
    write_cut(models / "unscored" / "1")


def brightness(pixels: np.ndarray) -> np.ndarray:
    """The scores of images ``[N, H, W, C]``, without classes."""
    return pixels.reshape(len(pixels), -1).mean(axis=1)


def add_brightness_score(
    folder: Path,
    calibration: ScoreCalibration | None = CALIBRATION,
    figures: tuple[SelectionFigure, ...] = (),
) -> None:
    """Add a discriminator that returns the mean of the pixels, plus a constant for each class."""
    manifest = read_manifest(folder)
    first = next(graph for graph in manifest.graphs.values() if "z" in graph.inputs)
    inputs = {"image": (TensorProto.UINT8, ["N", SIZE, SIZE, 3])}
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["mean"], keepdims=0),
    ]
    weights = [numpy_helper.from_array(np.array([1, 2, 3]), "axes")]
    table = np.arange(len(CLASSES), dtype=np.float32) * CLASS_SCORE
    if "class_weights" in first.inputs:
        inputs["class_weights"] = (TensorProto.FLOAT, ["N", len(CLASSES)])
        nodes.append(helper.make_node("MatMul", ["class_weights", "table"], ["of_class"]))
    elif "class_index" in first.inputs:
        inputs["class_index"] = (TensorProto.INT64, ["N"])
        nodes.append(helper.make_node("Gather", ["table", "class_index"], ["of_class"]))
    if len(inputs) > 1:
        weights.append(numpy_helper.from_array(table, "table"))
        nodes.append(helper.make_node("Add", ["mean", "of_class"], ["score"]))
    else:
        nodes.append(helper.make_node("Identity", ["mean"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "discriminator",
        [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path = folder / "discriminator.onnx"
    onnx.save(model, path)
    entry = Graph(
        file=path.name, sha256=file_sha256(path), inputs=tuple(inputs), outputs=("score",)
    )
    changed = manifest.model_copy(
        update={
            "graphs": {**manifest.graphs, DISCRIMINATOR: entry},
            "discriminator": Discriminator(calibration=calibration, figures=figures),
        }
    )
    (folder / MANIFEST_FILE).write_text(changed.to_json())
