"""Small models made of ONNX nodes, for what no quickly trained one has: styles and truncation.

`painted` has styles, `painted-classes` has classes and truncation too, and `cut` is one graph with
both, with latents from a truncated normal. `cut` takes the weights of classes, so that it can blend
them, and `painted-classes` an index.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import (
    GENERATOR,
    MANIFEST_FILE,
    MAPPING,
    SYNTHESIS,
    Graph,
    ImageSpec,
    ImportProvenance,
    LatentSpace,
    Manifest,
    StyleLayer,
    StyleSpace,
    Truncation,
    file_sha256,
)

Z, W = 16, 10
GROUPS = ("coarse", "coarse", "middle", "middle", "fine", "fine")
LAYERS = len(GROUPS)
# Each layer of `painted` paints a band of its own, and nothing else.
BAND = 4
SIZE = LAYERS * BAND
CLASSES = ("cat", "dog", "night owl")
TRUNCATION = Truncation(default=0.7, minimum=0.0, maximum=1.5)

_TYPES = {
    "z": (TensorProto.FLOAT, ["N", Z]),
    "class_index": (TensorProto.INT64, ["N"]),
    "class_weights": (TensorProto.FLOAT, ["N", len(CLASSES)]),
    "truncation": (TensorProto.FLOAT, ["N"]),
    "w": (TensorProto.FLOAT, ["N", LAYERS, W]),
    "transform": (TensorProto.FLOAT, ["N", 3, 3]),
    "pixels": (TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
}


class Drawing:
    """A graph in the making: weights by name, and nodes in their order."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, gives: str = "", **attributes) -> str:
        gives = gives or f"value-{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [gives], **attributes))
        return gives

    def constant(self, value) -> str:
        name = f"weight-{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self._rng.normal(size=shape).astype(np.float32))

    def features(self, width: int, inputs: list[str]) -> str:
        """``z``, and what else is asked for, as ``[N, width]``; truncated towards a centre."""
        value = self.node("MatMul", "z", self.weight(Z, width))
        if "class_index" in inputs:
            embedded = self.node("Gather", self.weight(len(CLASSES), width), "class_index")
            value = self.node("Add", value, embedded)
        if "class_weights" in inputs:
            embedded = self.node("MatMul", "class_weights", self.weight(len(CLASSES), width))
            value = self.node("Add", value, embedded)
        value = self.node("Tanh", value)
        if "truncation" in inputs:
            centre = self.weight(width)
            column = self.node("Unsqueeze", "truncation", self.constant([1]))
            away = self.node("Mul", self.node("Sub", value, centre), column)
            value = self.node("Add", centre, away)
        return value

    def paint(self, values: str, shape: list[int]) -> None:
        """Turn any real numbers into ``pixels`` of `shape`."""
        bright = self.node("Mul", self.node("Sigmoid", values), self.constant(np.float32(255)))
        shaped = self.node("Reshape", self.node("Round", bright), self.constant(shape))
        self.node("Cast", shaped, gives="pixels", to=TensorProto.UINT8)

    def save(self, path: Path, inputs: list[str], outputs: list[str]) -> Graph:
        described = [
            [helper.make_tensor_value_info(name, *_TYPES[name]) for name in names]
            for names in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, path.stem, *described, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return Graph(file=path.name, sha256=file_sha256(path), inputs=inputs, outputs=outputs)


def write_models(models: Path) -> None:
    write_painted(models / "painted" / "1", ["z"])
    write_painted(models / "painted-classes" / "1", ["z", "class_index", "truncation"])
    write_cut(models / "cut" / "1")


def write_painted(folder: Path, inputs: list[str]) -> None:
    """A mapping network, and a synthesis whose layers each paint a band of the picture."""
    folder.mkdir(parents=True)
    mapping = Drawing(seed=1)
    w = mapping.features(W, inputs)
    one_row = mapping.node("Unsqueeze", w, mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), gives="w")

    synthesis = Drawing(seed=2)
    bands = []
    for layer in range(LAYERS):
        style = synthesis.node("Gather", "w", synthesis.constant(layer), axis=1)
        bands.append(synthesis.node("MatMul", style, synthesis.weight(W, BAND * SIZE * 3)))
    synthesis.paint(synthesis.node("Concat", *bands, axis=1), [-1, SIZE, SIZE, 3])
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", inputs, ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w"], ["pixels"]),
    }
    layers = [
        StyleLayer(resolution=SIZE >> (2 - i // 2), group=group) for i, group in enumerate(GROUPS)
    ]
    _write_manifest(folder, graphs, inputs, styles=StyleSpace(dimension=W, layers=layers))


def write_moved(folder: Path) -> None:
    """Styles, and a synthesis whose pictures depend on a transform too."""
    folder.mkdir(parents=True)
    mapping = Drawing(seed=7)
    one_row = mapping.node("Unsqueeze", mapping.features(W, ["z"]), mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), gives="w")
    synthesis = Drawing(seed=8)
    flat = [
        synthesis.node("Reshape", name, synthesis.constant([-1, width]))
        for name, width in (("w", LAYERS * W), ("transform", 9))
    ]
    joined = synthesis.node("Concat", *flat, axis=1)
    synthesis.paint(
        synthesis.node("MatMul", joined, synthesis.weight(LAYERS * W + 9, SIZE * SIZE * 3)),
        [-1, SIZE, SIZE, 3],
    )
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", ["z"], ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w", "transform"], ["pixels"]),
    }
    layers = [StyleLayer(resolution=SIZE, group=group) for group in GROUPS]
    _write_manifest(folder, graphs, ["z"], styles=StyleSpace(dimension=W, layers=layers))


def write_cut(folder: Path) -> None:
    """One graph from a truncated normal, a class and a truncation to the picture."""
    folder.mkdir(parents=True)
    inputs = ["z", "class_weights", "truncation"]
    generator = Drawing(seed=3)
    features = generator.features(W, inputs)
    generator.paint(
        generator.node("MatMul", features, generator.weight(W, SIZE * SIZE * 3)),
        [-1, SIZE, SIZE, 3],
    )
    graphs = {GENERATOR: generator.save(folder / "generator.onnx", inputs, ["pixels"])}
    _write_manifest(folder, graphs, inputs, distribution="truncated-normal")


def _write_manifest(
    folder: Path,
    graphs: dict[str, Graph],
    inputs: list[str],
    styles: StyleSpace | None = None,
    distribution: str = "normal",
) -> None:
    manifest = Manifest(
        name=folder.parent.name,
        version=folder.name,
        task="generate",
        summary="Bands of colour.",
        graphs=graphs,
        image=ImageSpec(height=SIZE, width=SIZE, channels=3),
        latent=LatentSpace(
            dimension=Z,
            distribution=distribution,
            truncation=TRUNCATION if "truncation" in inputs else None,
        ),
        classes=CLASSES if {"class_index", "class_weights"} & set(inputs) else (),
        styles=styles,
        provenance=ImportProvenance(
            format="test",
            source_file="tests/support/drawn_models.py",
            source_sha256="0" * 64,
            importer_version="1",
        ),
        license="Apache-2.0",
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())


def write_spoiled(folder: Path) -> None:
    """Styles and pictures that are NaN for every latent whose first number is below 0; seed 0 is
    well.
    """
    folder.mkdir(parents=True)
    mapping = Drawing(seed=4)
    root = mapping.node("Sqrt", mapping.node("MatMul", "z", mapping.constant(_first_of(Z, W))))
    one_row = mapping.node("Unsqueeze", root, mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), gives="w")
    synthesis = Drawing(seed=5)
    style = synthesis.node("Gather", "w", synthesis.constant(0), axis=1)
    synthesis.paint(
        synthesis.node("MatMul", style, synthesis.weight(W, SIZE * SIZE * 3)), [-1, SIZE, SIZE, 3]
    )
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", ["z"], ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w"], ["pixels"]),
    }
    layers = [StyleLayer(resolution=SIZE, group=group) for group in GROUPS]
    _write_manifest(folder, graphs, ["z"], styles=StyleSpace(dimension=W, layers=layers))


def write_failing(folder: Path) -> None:
    """A graph that cannot run for a latent whose first number is below 0; seed 0 is well."""
    folder.mkdir(parents=True)
    generator = Drawing(seed=6)
    first = generator.node("Gather", "z", generator.constant(0), axis=1)
    below = generator.node("Less", first, generator.constant(np.float32(0)))
    # Index 9 of an axis of one is an error.
    index = generator.node(
        "Mul", generator.node("Cast", below, to=TensorProto.INT64), generator.constant(9)
    )
    zeros = generator.node("Gather", generator.constant(np.zeros((1, Z), np.float32)), index)
    painted = generator.node(
        "MatMul", generator.node("Add", "z", zeros), generator.weight(Z, SIZE * SIZE * 3)
    )
    generator.paint(painted, [-1, SIZE, SIZE, 3])
    graphs = {GENERATOR: generator.save(folder / "generator.onnx", ["z"], ["pixels"])}
    _write_manifest(folder, graphs, ["z"])


def _first_of(rows: int, columns: int) -> np.ndarray:
    """A matrix that gives the first number of a row, in every column."""
    matrix = np.zeros((rows, columns), np.float32)
    matrix[0] = 1
    return matrix
