"""Which input and output of a graph is which of the contract, and what its pictures are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from service.runtime.models.manifest import CLASS_INDEX, CLASS_WEIGHTS, Task
from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.formats.base import UserOptions

Range = tuple[float, float]

INPUTS = ("z", CLASS_INDEX, CLASS_WEIGHTS, "truncation", "image", "mask")
PIXELS = "pixels"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_WHOLE = (TensorProto.INT64, TensorProto.INT32)
_MOST_NUMBERS = 2**20
_MOST_CLASSES = 2**16
# What may stand between a graph's last activation and its output without changing a value.
_PASSED = ("Identity", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph: its type of ONNX, and its axes, None where they vary."""

    name: str
    type: int
    shape: tuple[int | None, ...]

    @property
    def numbers(self) -> bool:
        """Whether it holds numbers with a fraction."""
        return self.type in _FLOATS

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Its type in NumPy."""
        return onnx.helper.tensor_dtype_to_np_dtype(self.type)

    @property
    def says(self) -> str:
        """Its name, type and shape."""
        kind = TensorProto.DataType.Name(self.type).lower()
        axes = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {kind}[{axes}]"


@dataclass(frozen=True)
class GraphOptions:
    """What the flags say of a graph, beside what they say of any generator."""

    maps: tuple[str, ...] = ()
    # Of the pictures' values: those that come out, and those that go in where they differ.
    range: Range | None = None
    input_range: Range | None = None
    layout: str | None = None
    task: Task | None = None
    z_dim: int | None = None
    said: UserOptions = field(default_factory=UserOptions)


def parse_graph_options(
    maps: Sequence[str],
    range_: str | None,
    input_range: str | None,
    layout: str | None,
    task: str | None,
    z_dim: int | None,
    said: UserOptions,
) -> GraphOptions:
    """Return what the flags say. Raises ImportOptionError for what is no range and no task."""
    tasks = ("translate", "colorize", "upscale", "inpaint", "generate")
    if task is not None and task not in tasks:
        raise ImportOptionError(f"--task {task}: it is one of {', '.join(tasks)}")
    return GraphOptions(
        tuple(maps),
        _range("--range", range_),
        _range("--input-range", input_range),
        layout,
        task,  # type: ignore[arg-type]
        z_dim,
        said,
    )


def _range(flag: str, text: str | None) -> Range | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ImportOptionError(f"{flag} {text}: it is two numbers, as in {flag} -1,1") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImportOptionError(f"{flag} {text}: black comes first, and is less than white")
    return low, high


def inputs(model: ModelProto) -> list[Port]:
    """Return the inputs that have to be fed: those with a value of their own need not be."""
    held = {weight.name for weight in model.graph.initializer}
    return [_port(each) for each in model.graph.input if each.name not in held]


def outputs(model: ModelProto) -> list[Port]:
    """Return the outputs."""
    return [_port(each) for each in model.graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelImportError(f"{value.name} is no tensor")
    axes = [
        side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None
        for side in kind.shape.dim
    ]
    return Port(value.name, kind.elem_type, tuple(axes))


def mapped(model: ModelProto, options: GraphOptions) -> dict[str, Port]:
    """Return the port of each name of the contract: as was said, else where only one can be meant.

    Raises ImportOptionError with the names that there are.
    """
    ins, outs = inputs(model), outputs(model)
    said: dict[str, Port] = {}
    for wish in options.maps:
        ours, _, theirs = wish.partition("=")
        ours = ours.strip()
        if ours not in (*INPUTS, PIXELS, "class"):
            names = ", ".join((*INPUTS, PIXELS))
            raise ImportOptionError(f"--map {wish}: before the = stands one of {names}")
        there = outs if ours == PIXELS else ins
        port = next((each for each in there if each.name == theirs.strip()), None)
        if port is None:
            kind = "output" if ours == PIXELS else "input"
            raise ImportOptionError(
                f"--map {wish}: there is no such {kind}; there are {_listed(there)}"
            )
        if ours == "class":
            ours = CLASS_WEIGHTS if port.numbers else CLASS_INDEX
        if ours in said or any(port.name == each.name for each in said.values()):
            raise ImportOptionError(f"--map {wish}: it is mapped twice")
        said[ours] = port
    left = [port for port in ins if port.name not in {each.name for each in said.values()}]
    for port in left:
        name = _meant(port, left, said)
        if name is None:
            raise ImportOptionError(
                f"it takes {_listed(ins)}: say which is which, as in --map z={port.name}; "
                f"there are {', '.join(INPUTS)}"
            )
        said[name] = port
    if PIXELS not in said:
        pictures = [port for port in outs if len(port.shape) in (3, 4)]
        one = outs if len(outs) == 1 else pictures
        if len(one) != 1:
            raise ImportOptionError(
                f"it gives {_listed(outs)}: say which are the pictures, as in "
                f"--map pixels={outs[0].name}"
            )
        said[PIXELS] = one[0]
    _check(said)
    return said


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(port.says for port in ports) or "none"


def _meant(port: Port, left: Sequence[Port], said: Mapping[str, Port]) -> str | None:
    """Return what an input without a word on it is, where it can be one thing only."""
    if port.type in _WHOLE and len(port.shape) <= 2:
        alone = sum(each.type in _WHOLE for each in left) == 1
        return CLASS_INDEX if alone and not {CLASS_INDEX, CLASS_WEIGHTS} & set(said) else None
    if sum(each.type not in _WHOLE for each in left) != 1:
        return None
    if "z" not in said and "image" not in said:
        return "image" if _is_picture(port) else "z"
    return None


def _is_picture(port: Port) -> bool:
    """Tell whether an input of four axes is a picture, and not z as a column of 1×1."""
    if port.type == TensorProto.UINT8:
        return True
    if len(port.shape) != 4:
        return False
    sides = port.shape[2:] if port.shape[1] in (1, 3, 4) else port.shape[1:3]
    channels = {port.shape[1], port.shape[3]} & {1, 3, 4}
    return bool(channels) and all(side is None or side > 4 for side in sides)


def _check(said: Mapping[str, Port]) -> None:
    """Raise ImportOptionError for what does not go together."""
    if ("z" in said) == ("image" in said):
        raise ImportOptionError("it needs z or image among its inputs, and not both")
    if "mask" in said and "image" not in said:
        raise ImportOptionError("a mask goes with an image")
    if CLASS_INDEX in said and CLASS_WEIGHTS in said:
        raise ImportOptionError("class_index and class_weights are two ways to say one thing")
    if "image" in said and {"truncation", CLASS_INDEX, CLASS_WEIGHTS} & set(said):
        raise ImportOptionError("classes and truncation go with z, and not with an image")
    for name, port in said.items():
        whole_is_well = name == CLASS_INDEX or (name in ("image", PIXELS, "mask"))
        if not port.numbers and not (whole_is_well and port.type in (*_WHOLE, TensorProto.UINT8)):
            raise ImportOptionError(f"{port.says} cannot be {name}: it holds other than numbers")
        if name == CLASS_INDEX and port.numbers:
            raise ImportOptionError(
                f"{port.says} cannot be class_index; if it is one-hot, map class_weights"
            )


def z_dim(port: Port, options: GraphOptions) -> int:
    """Return the numbers of z. Raises ImportOptionError."""
    sides = port.shape[1:]
    if any(side is None for side in sides) or not sides:
        if options.z_dim is None:
            raise ImportOptionError(f"{port.says} does not tell how many numbers z has: --z-dim")
        return options.z_dim
    numbers = math.prod(side for side in sides if side)
    if numbers > _MOST_NUMBERS:
        raise ImportOptionError(f"{port.says} cannot be z: it has {numbers:,} numbers")
    return numbers


def class_count(said: Mapping[str, Port], options: GraphOptions) -> int:
    """Return how many classes there are, 0 for none. Raises ImportOptionError."""
    port = said.get(CLASS_WEIGHTS)
    if port is None and CLASS_INDEX not in said:
        return 0
    details = options.said.classes or len(options.said.class_names) or None
    sides = [side for side in port.shape[1:] if side != 1] if port else []
    if max(details or 0, *(side or 0 for side in sides), 0) > _MOST_CLASSES:
        raise ImportOptionError("there are more classes than can be told apart")
    if len(sides) == 1 and sides[0] is not None:
        if details not in (None, sides[0]):
            raise ImportOptionError(
                f"--classes {details}: {port.says if port else ''} has {sides[0]}"
            )
        return sides[0]
    if details is None:
        raise ImportOptionError(
            "how many classes there are is not in the graph: --classes or --class-names"
        )
    return details


def channels_first(shape: Sequence[int | None], layout: str | None, what: str) -> bool:
    """Tell whether pictures of that shape are ``[N, C, H, W]``. Raises ImportOptionError."""
    if layout is not None:
        if layout.lower() not in ("nchw", "nhwc"):
            raise ImportOptionError(f"--layout {layout}: it is nchw or nhwc")
        return layout.lower() == "nchw"
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if first == last:
        axes = ", ".join("?" if side is None else str(side) for side in shape)
        raise ImportOptionError(
            f"{what} [{axes}] does not tell where its channels are: --layout nchw or nhwc"
        )
    return first


def range_of(model: ModelProto, port: Port, options: GraphOptions) -> tuple[Range, str]:
    """Return the output values of black and white, and how they are known."""
    if options.range is not None:
        return options.range, "as was said"
    if port.type == TensorProto.UINT8:
        return (0.0, 255.0), "they are bytes"
    makers = {name: node for node in model.graph.node for name in node.output}
    node: NodeProto | None = makers.get(port.name)
    for _ in range(64):
        if node is None or node.op_type not in _PASSED:
            break
        node = makers.get(node.input[0])
    if node is not None and node.op_type in ("Tanh", "Sigmoid"):
        return (-1.0 if node.op_type == "Tanh" else 0.0, 1.0), f"it ends with a {node.op_type}"
    raise ImportOptionError(
        f"the graph does not tell the values of black and white in {port.name}: "
        "--range -1,1 or 0,1 or 0,255"
    )
