"""Small models from pictures to pictures made of ONNX nodes, whose answers anyone can compute.

`softer` blurs by a box of 5 pixels (and in its other direction inverts), `larger` doubles pixels
after the same blur, `filled` paints holes in one colour, `coloured` gives grey a tint, and `fixed`
inverts pictures of one size, and `reflecting` those that have seven pixels to reflect.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import convolve1d

from service.runtime.models.manifest import (
    GENERATOR,
    MANIFEST_FILE,
    Graph,
    ImageInput,
    ImageSpec,
    ImportProvenance,
    Manifest,
    file_sha256,
)

REACH = 2
FILL = (10, 200, 30)
SIDE = 16


def blurred(pixels: np.ndarray) -> np.ndarray:
    """What `softer` makes of ``[H, W, C]``: the mean of 5 × 5 pixels, nothing beyond the border."""
    x = pixels.astype(np.float64)
    for axis in (0, 1):
        x = convolve1d(x, np.full(5, 0.2), axis=axis, mode="constant")
    return np.rint(x)


def write_translators(models: Path) -> None:
    _write(
        models / "softer",
        "translate",
        {"soften": _blur(), "invert": _inverted()},
        directions=("soften", "invert"),
        reach=REACH,
    )
    _write(models / "larger", "upscale", {GENERATOR: _doubled()}, factor=2, reach=REACH)
    _write(models / "filled", "inpaint", {GENERATOR: _filled()}, masked=True, reach=0)
    _write(models / "coloured", "colorize", {GENERATOR: _inverted()}, reach=0, multiple=8)
    _write(models / "fixed", "translate", {GENERATOR: _inverted()}, fixed=True)
    _write(models / "reflecting", "translate", {GENERATOR: _reflected()}, multiple=4, least=8)


def _write(folder: Path, task: str, graphs: dict[str, onnx.GraphProto], **said) -> None:
    folder = folder / "1"
    folder.mkdir(parents=True)
    written = {}
    for role, graph in graphs.items():
        path = folder / f"{role}.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        written[role] = Graph(
            file=path.name,
            sha256=file_sha256(path),
            inputs=[each.name for each in graph.input],
            outputs=["pixels"],
        )
    given = ImageInput(channels=3, side=SIDE, **said)
    side = SIDE * given.factor
    manifest = Manifest(
        name=folder.parent.name,
        version="1",
        task=task,
        summary="Arithmetic.",
        graphs=written,
        image=ImageSpec(height=side, width=side, channels=3),
        input=given,
        provenance=ImportProvenance(
            format="test",
            source_file="tests/support/image_to_image_models.py",
            source_sha256="0" * 64,
            importer_version="1",
        ),
        license="Apache-2.0",
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())


def _node(operator: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _graph(nodes, *, mask=False, **constants) -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])]
    if mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"]))
    output = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", "h", "w", 3])
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    return helper.make_graph(nodes, "graph", inputs, [output], weights)


_BLUR = [
    _node("Cast", ["image"], "numbers", to=TensorProto.FLOAT),
    _node("Transpose", ["numbers"], "planes", perm=[0, 3, 1, 2]),
    _node("Conv", ["planes", "box"], "soft", pads=[2, 2, 2, 2], group=3),
    _node("Mul", ["soft", "share"], "mean"),
    _node("Round", ["mean"], "levels"),
]
# Whole numbers until the last step, so that nothing depends on the order of addition.
_BOX = {"box": np.ones((3, 1, 5, 5), np.float32), "share": np.float32(1 / 25)}
_LAST = [
    _node("Transpose", ["made"], "laid", perm=[0, 2, 3, 1]),
    _node("Cast", ["laid"], "pixels", to=TensorProto.UINT8),
]


def _blur() -> onnx.GraphProto:
    return _graph([*_BLUR, _node("Identity", ["levels"], "made"), *_LAST], **_BOX)


def _doubled() -> onnx.GraphProto:
    twice = _node("Resize", ["levels", "", "scales"], "made", mode="nearest")
    return _graph([*_BLUR, twice, *_LAST], **_BOX, scales=np.array([1, 1, 2, 2], np.float32))


def _inverted() -> onnx.GraphProto:
    return _graph([_node("Sub", ["white", "image"], "pixels")], white=np.uint8(255))


def _reflected() -> onnx.GraphProto:
    nodes = [
        _node("Sub", ["white", "image"], "inverted"),
        _node("Pad", ["inverted", "pads"], "padded", mode="reflect"),
        _node("Slice", ["padded", "from", "to", "axes"], "pixels"),
    ]
    return _graph(
        nodes,
        white=np.uint8(255),
        pads=np.array([0, 7, 7, 0, 0, 7, 7, 0]),
        **{"from": np.array([7, 7]), "to": np.array([-7, -7]), "axes": np.array([1, 2])},
    )


def _filled() -> onnx.GraphProto:
    nodes = [
        _node("Unsqueeze", ["mask", "last"], "column"),
        _node("Greater", ["column", "half"], "hole"),
        _node("Where", ["hole", "fill", "image"], "pixels"),
    ]
    return _graph(
        nodes,
        mask=True,
        last=np.array([3], np.int64),
        half=np.uint8(127),
        fill=np.array(FILL, np.uint8),
    )
