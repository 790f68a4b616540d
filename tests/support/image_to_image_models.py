"""Small image-to-image models, built from ONNX nodes, with easily computed outputs.

- `softer` blurs with a box filter of 5 × 5 pixels; its second direction inverts.
- `larger` blurs in the same way and upscales by 2.
- `filled` fills holes with one color.
- `colored` inverts, and takes sides that are multiples of 8 pixels.
- `fixed` inverts images of a fixed size.
- `reflecting` inverts images that are large enough for a reflection padding of 7 pixels.
- `larger-fixed` is `larger` for images of 12 × 16 pixels only.
- `larger-luma` is `larger` for gray images.
- `wide` averages squares of 101 × 101 pixels.
- `tinting` upscales by 2, and halves red.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import convolve1d

from service.runtime.models.manifest import MANIFEST_FILE, Manifest, file_sha256
from service.runtime.models.parts.graphs import GENERATOR, Graph
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import ImportProvenance

REACH = 2
WIDE_REACH = 50
FILL = (10, 200, 30)
SIDE = 16


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Return the output of `softer` for ``[H, W, C]``: the mean of 5 × 5 pixels, zero-padded."""
    x = pixels.astype(np.float64)
    for axis in (0, 1):
        x = convolve1d(x, np.full(5, 0.2), axis=axis, mode="constant")
    return np.rint(x)


def write_translators(models: Path) -> None:
    """Write all models into the folder `models`."""
    _write(
        models / "softer",
        "translate",
        {"soften": _blur(), "invert": _inverted()},
        directions=("soften", "invert"),
        reach=REACH,
    )
    _write(models / "larger", "upscale", {GENERATOR: _doubled()}, factor=2, reach=REACH)
    _write(models / "filled", "inpaint", {GENERATOR: _filled()}, masked=True, reach=0)
    _write(models / "colored", "colorize", {GENERATOR: _inverted()}, reach=0, multiple=8)
    _write(models / "fixed", "translate", {GENERATOR: _inverted()}, fixed=True)
    _write(
        models / "larger-fixed",
        "upscale",
        {GENERATOR: _of_size(_doubled(), 12, 16)},
        side=12,
        width=16,
        fixed=True,
        factor=2,
        reach=REACH,
    )
    _write(models / "larger-luma", "upscale", {GENERATOR: _doubled(1)}, channels=1, factor=2)
    _write(models / "wide", "translate", {GENERATOR: _wide()}, reach=WIDE_REACH)
    _write(models / "tinting", "upscale", {GENERATOR: _tinted()}, factor=2, reach=0)
    _write(models / "reflecting", "translate", {GENERATOR: _reflected()}, multiple=4, least=8)


def _write(folder: Path, task: str, graphs: dict[str, onnx.GraphProto], **input_options) -> None:
    folder = folder / "1"
    folder.mkdir(parents=True)
    graph_entries = {}
    for role, graph in graphs.items():
        path = folder / f"{role}.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        graph_entries[role] = Graph(
            file=path.name,
            sha256=file_sha256(path),
            inputs=[each.name for each in graph.input],
            outputs=["pixels"],
        )
    spec = ImageInput(**({"channels": 3, "side": SIDE} | input_options))
    height, width = (side * spec.factor for side in spec.size)
    manifest = Manifest(
        name=folder.parent.name,
        version="1",
        task=task,
        summary="Arithmetic.",
        graphs=graph_entries,
        image=ImageSpec(height=height, width=width, channels=spec.channels),
        input=spec,
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


def _graph(nodes, *, mask=False, channels=3, **constants) -> onnx.GraphProto:
    axes = ["N", "H", "W", channels]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, axes)]
    if mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"]))
    output = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", "h", "w", channels])
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    return helper.make_graph(nodes, "graph", inputs, [output], weights)


_BLUR = [
    _node("Cast", ["image"], "numbers", to=TensorProto.FLOAT),
    _node("Transpose", ["numbers"], "planes", perm=[0, 3, 1, 2]),
    _node("Conv", ["planes", "box"], "soft", pads=[2, 2, 2, 2], group=3),
    _node("Mul", ["soft", "weight"], "mean"),
    _node("Round", ["mean"], "levels"),
]
# The sum is over integers, so that it does not depend on the order of addition.
_BOX = {"box": np.ones((3, 1, 5, 5), np.float32), "weight": np.float32(1 / 25)}
_TO_PIXELS = [
    _node("Transpose", ["output"], "channels_last", perm=[0, 2, 3, 1]),
    _node("Cast", ["channels_last"], "pixels", to=TensorProto.UINT8),
]


def _blur() -> onnx.GraphProto:
    return _graph([*_BLUR, _node("Identity", ["levels"], "output"), *_TO_PIXELS], **_BOX)


def _doubled(channels: int = 3) -> onnx.GraphProto:
    upscaled = _node("Resize", ["levels", "", "scales"], "output", mode="nearest")
    blur = [_node("Conv", ["planes", "box"], "soft", pads=[2, 2, 2, 2], group=channels)]
    return _graph(
        [*_BLUR[:2], *blur, *_BLUR[3:], upscaled, *_TO_PIXELS],
        channels=channels,
        box=_BOX["box"][:channels],
        weight=_BOX["weight"],
        scales=np.array([1, 1, 2, 2], np.float32),
    )


def _of_size(graph: onnx.GraphProto, height: int, width: int) -> onnx.GraphProto:
    """Return a graph that takes images of one size only."""
    for axis, side in ((1, height), (2, width)):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    return graph


def _tinted() -> onnx.GraphProto:
    nodes = [
        _node("Cast", ["image"], "numbers", to=TensorProto.FLOAT),
        _node("Mul", ["numbers", "tint"], "tinted"),
        _node("Floor", ["tinted"], "levels"),
        _node("Resize", ["levels", "", "scales"], "large", mode="nearest"),
        _node("Cast", ["large"], "pixels", to=TensorProto.UINT8),
    ]
    tint, scales = np.array([0.5, 1, 1], np.float32), np.array([1, 2, 2, 1], np.float32)
    return _graph(nodes, tint=tint, scales=scales)


def _wide() -> onnx.GraphProto:
    pads = [WIDE_REACH] * 4
    nodes = [
        *_BLUR[:2],
        _node("AveragePool", ["planes"], "mean", kernel_shape=[2 * WIDE_REACH + 1] * 2, pads=pads),
        _node("Round", ["mean"], "output"),
        *_TO_PIXELS,
    ]
    return _graph(nodes)


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
