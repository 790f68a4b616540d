"""Small models with styles, classes and truncation, built from ONNX nodes with random weights.

- `painted` has styles; every layer determines a band of the image.
- `painted-classes` also has classes, which it takes as an index, and truncation.
- `cut` is a single graph with classes and truncation, and latents from a truncated normal
  distribution. It takes class weights, so it can blend classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import MANIFEST_FILE, Manifest, file_sha256
from service.runtime.models.parts.graphs import GENERATOR, MAPPING, SYNTHESIS, Graph
from service.runtime.models.parts.latent import LatentSpace, StyleLayer, StyleSpace, Truncation
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import ImportProvenance

Z, W = 16, 10
GROUPS = ("coarse", "coarse", "middle", "middle", "fine", "fine")
LAYERS = len(GROUPS)
# Height in pixels of the band that a layer of `painted` determines.
BAND = 4
SIZE = LAYERS * BAND
CLASSES = ("cat", "dog", "night owl")
TRUNCATION = Truncation(default=0.7, minimum=0.0, maximum=1.5)

# Audio: samples per second and per output.
SAMPLE_RATE, SAMPLES = 8000, 2000
# Text: the characters of the vocabulary after those of the start and the end, and the state.
CHARACTERS = "abcdefgh "
VOCABULARY = ("", "", *CHARACTERS)
STATE = 12
TEXT = 8

_TYPES = {
    "z": (TensorProto.FLOAT, ["N", Z]),
    "class_index": (TensorProto.INT64, ["N"]),
    "class_weights": (TensorProto.FLOAT, ["N", len(CLASSES)]),
    "truncation": (TensorProto.FLOAT, ["N"]),
    "w": (TensorProto.FLOAT, ["N", LAYERS, W]),
    "transform": (TensorProto.FLOAT, ["N", 3, 3]),
    "pixels": (TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
    "image": (TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
    "reconstruction": (TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
    "new_w": (TensorProto.FLOAT, ["N", LAYERS, W]),
    "new_z": (TensorProto.FLOAT, ["N", Z]),
    "samples": (TensorProto.INT16, ["N", SAMPLES]),
    "token": (TensorProto.INT64, ["N"]),
    "state": (TensorProto.FLOAT, ["N", STATE]),
    "logits": (TensorProto.FLOAT, ["N", len(VOCABULARY)]),
    "new_state": (TensorProto.FLOAT, ["N", STATE]),
    "text": (TensorProto.FLOAT, ["N", TEXT]),
    "token_ids": (TensorProto.INT64, ["N", "L"]),
    "token_mask": (TensorProto.FLOAT, ["N", "L"]),
}


class GraphBuilder:
    """Builds an ONNX graph, node by node."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes) -> str:
        """Add a node, and return the name of its output."""
        output = output or f"value-{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value) -> str:
        """Add a constant, and return its name."""
        name = f"weight-{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        """Add a constant of random normal values, and return its name."""
        return self.constant(self._rng.normal(size=shape).astype(np.float32))

    def features(self, width: int, inputs: list[str]) -> str:
        """Map the `inputs`, ``z`` and optionally class and truncation, to ``[N, width]``."""
        value = self.node("MatMul", "z", self.weight(Z, width))
        if "class_index" in inputs:
            embedded = self.node("Gather", self.weight(len(CLASSES), width), "class_index")
            value = self.node("Add", value, embedded)
        if "class_weights" in inputs:
            embedded = self.node("MatMul", "class_weights", self.weight(len(CLASSES), width))
            value = self.node("Add", value, embedded)
        value = self.node("Tanh", value)
        if "truncation" in inputs:
            center = self.weight(width)
            column = self.node("Unsqueeze", "truncation", self.constant([1]))
            offset = self.node("Mul", self.node("Sub", value, center), column)
            value = self.node("Add", center, offset)
        return value

    def add_pixels(self, values: str, shape: list[int]) -> None:
        """Map real values to the output ``pixels`` of `shape`."""
        levels = self.node("Mul", self.node("Sigmoid", values), self.constant(np.float32(255)))
        shaped = self.node("Reshape", self.node("Round", levels), self.constant(shape))
        self.node("Cast", shaped, output="pixels", to=TensorProto.UINT8)

    def save(self, path: Path, inputs: list[str], outputs: list[str], **types: Any) -> Graph:
        """Write the ONNX file, and return its manifest entry.

        `types` are the element types and shapes of inputs and outputs with other sizes.
        """
        types = {**_TYPES, **types}
        value_infos = [
            [helper.make_tensor_value_info(name, *types[name]) for name in names]
            for names in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, path.stem, *value_infos, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return Graph(file=path.name, sha256=file_sha256(path), inputs=inputs, outputs=outputs)


def write_models(models: Path) -> None:
    """Write the three models into the folder `models`."""
    write_painted(models / "painted" / "1", ["z"])
    write_painted(models / "painted-classes" / "1", ["z", "class_index", "truncation"])
    write_cut(models / "cut" / "1")


def write_painted(folder: Path, inputs: list[str]) -> None:
    """Write a mapping network, and a synthesis whose layers each determine a band of the image."""
    folder.mkdir(parents=True)
    mapping = GraphBuilder(seed=1)
    w = mapping.features(W, inputs)
    one_row = mapping.node("Unsqueeze", w, mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), output="w")

    synthesis = GraphBuilder(seed=2)
    bands = []
    for layer in range(LAYERS):
        style = synthesis.node("Gather", "w", synthesis.constant(layer), axis=1)
        bands.append(synthesis.node("MatMul", style, synthesis.weight(W, BAND * SIZE * 3)))
    synthesis.add_pixels(synthesis.node("Concat", *bands, axis=1), [-1, SIZE, SIZE, 3])
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", inputs, ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w"], ["pixels"]),
    }
    layers = [
        StyleLayer(resolution=SIZE >> (2 - i // 2), group=group) for i, group in enumerate(GROUPS)
    ]
    write_manifest(folder, graphs, inputs, styles=StyleSpace(dimension=W, layers=layers))


def write_transformable(folder: Path) -> None:
    """Write a model with styles whose images also depend on a transform."""
    folder.mkdir(parents=True)
    mapping = GraphBuilder(seed=7)
    one_row = mapping.node("Unsqueeze", mapping.features(W, ["z"]), mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), output="w")
    synthesis = GraphBuilder(seed=8)
    flat = [
        synthesis.node("Reshape", name, synthesis.constant([-1, width]))
        for name, width in (("w", LAYERS * W), ("transform", 9))
    ]
    inputs = synthesis.node("Concat", *flat, axis=1)
    synthesis.add_pixels(
        synthesis.node("MatMul", inputs, synthesis.weight(LAYERS * W + 9, SIZE * SIZE * 3)),
        [-1, SIZE, SIZE, 3],
    )
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", ["z"], ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w", "transform"], ["pixels"]),
    }
    layers = [StyleLayer(resolution=SIZE, group=group) for group in GROUPS]
    write_manifest(folder, graphs, ["z"], styles=StyleSpace(dimension=W, layers=layers))


def write_cut(folder: Path) -> None:
    """Write a single graph that takes a truncated normal z, class weights and a truncation."""
    folder.mkdir(parents=True)
    inputs = ["z", "class_weights", "truncation"]
    generator = GraphBuilder(seed=3)
    features = generator.features(W, inputs)
    generator.add_pixels(
        generator.node("MatMul", features, generator.weight(W, SIZE * SIZE * 3)),
        [-1, SIZE, SIZE, 3],
    )
    graphs = {GENERATOR: generator.save(folder / "generator.onnx", inputs, ["pixels"])}
    write_manifest(folder, graphs, inputs, distribution="truncated-normal")


def write_manifest(
    folder: Path,
    graphs: dict[str, Graph],
    inputs: list[str],
    styles: StyleSpace | None = None,
    distribution: str = "normal",
    **additions: object,
) -> None:
    """Write the manifest of graphs, of which the first takes `inputs`."""
    manifest = Manifest(
        name=folder.parent.name,
        version=folder.name,
        task="generate",
        summary="Bands of color.",
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
        **additions,
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())


def write_nan(folder: Path) -> None:
    """Write a model whose styles are NaN if the first value of z is negative (not for seed 0)."""
    folder.mkdir(parents=True)
    mapping = GraphBuilder(seed=4)
    root = mapping.node("Sqrt", mapping.node("MatMul", "z", mapping.constant(_select_first(Z, W))))
    one_row = mapping.node("Unsqueeze", root, mapping.constant([1]))
    mapping.node("Add", one_row, mapping.constant(np.zeros((1, LAYERS, W), np.float32)), output="w")
    synthesis = GraphBuilder(seed=5)
    style = synthesis.node("Gather", "w", synthesis.constant(0), axis=1)
    synthesis.add_pixels(
        synthesis.node("MatMul", style, synthesis.weight(W, SIZE * SIZE * 3)), [-1, SIZE, SIZE, 3]
    )
    graphs = {
        MAPPING: mapping.save(folder / "mapping.onnx", ["z"], ["w"]),
        SYNTHESIS: synthesis.save(folder / "synthesis.onnx", ["w"], ["pixels"]),
    }
    layers = [StyleLayer(resolution=SIZE, group=group) for group in GROUPS]
    write_manifest(folder, graphs, ["z"], styles=StyleSpace(dimension=W, layers=layers))


def write_failing(folder: Path) -> None:
    """Write a graph whose run fails if the first value of z is negative (not for seed 0)."""
    folder.mkdir(parents=True)
    generator = GraphBuilder(seed=6)
    first = generator.node("Gather", "z", generator.constant(0), axis=1)
    is_negative = generator.node("Less", first, generator.constant(np.float32(0)))
    # Index 9 is out of bounds for an axis of length 1.
    index = generator.node(
        "Mul", generator.node("Cast", is_negative, to=TensorProto.INT64), generator.constant(9)
    )
    zeros = generator.node("Gather", generator.constant(np.zeros((1, Z), np.float32)), index)
    values = generator.node(
        "MatMul", generator.node("Add", "z", zeros), generator.weight(Z, SIZE * SIZE * 3)
    )
    generator.add_pixels(values, [-1, SIZE, SIZE, 3])
    graphs = {GENERATOR: generator.save(folder / "generator.onnx", ["z"], ["pixels"])}
    write_manifest(folder, graphs, ["z"])


def _select_first(rows: int, columns: int) -> np.ndarray:
    """A matrix that copies the first value of a row vector to every column."""
    matrix = np.zeros((rows, columns), np.float32)
    matrix[0] = 1
    return matrix
