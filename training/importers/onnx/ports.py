"""Maps the inputs and outputs of an imported graph to the names used in model folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from service.runtime.models.parts.graphs import CLASS_INDEX, CLASS_WEIGHTS
from service.runtime.models.parts.tasks import Task
from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.options import Choices, UserOptions

# The values of black and white.
Range = tuple[float, float]

INPUTS = ("z", CLASS_INDEX, CLASS_WEIGHTS, "truncation", "image", "mask")
PIXELS = "pixels"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_MAX_Z_DIM = 2**20
_MAX_CLASSES = 2**16
# Operators that do not change values; they can follow the last activation of a graph.
_VALUE_PRESERVING = (
    "Identity",
    "Transpose",
    "Reshape",
    "Cast",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: its ONNX type and its shape, with None for dynamic axes."""

    name: str
    type: int
    shape: tuple[int | None, ...]

    @property
    def is_float(self) -> bool:
        """True for floating-point types."""
        return self.type in _FLOATS

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy type."""
        return onnx.helper.tensor_dtype_to_np_dtype(self.type)

    @property
    def signature(self) -> str:
        """Name, type and shape, for messages."""
        type_name = TensorProto.DataType.Name(self.type).lower()
        return f"{self.name} {type_name}[{_axes(self.shape)}]"


def _axes(shape: Sequence[int | None]) -> str:
    return ", ".join("?" if side is None else str(side) for side in shape)


@dataclass(frozen=True)
class GraphOptions:
    """Command-line options for ONNX graphs, including the options for all checkpoints."""

    maps: tuple[str, ...] = ()
    # The values of black and white in the output images, and in the input images if they differ.
    range: Range | None = None
    input_range: Range | None = None
    layout: str | None = None
    task: Task | None = None
    z_dim: int | None = None
    common: UserOptions = field(default_factory=UserOptions)
    # Answers questions with the common options.
    choices: Choices = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", Choices(self.common))


def parse_graph_options(
    maps: Sequence[str],
    range_: str | None,
    input_range: str | None,
    layout: str | None,
    task: str | None,
    z_dim: int | None,
    common: UserOptions,
) -> GraphOptions:
    """Parse the options of the command line. Raises ImportOptionError."""
    if task is not None and task not in get_args(Task):
        raise ImportOptionError(f"--task {task}: expected one of {', '.join(get_args(Task))}")
    return GraphOptions(
        tuple(maps),
        _parse_range("--range", range_),
        _parse_range("--input-range", input_range),
        layout,
        task,  # type: ignore[arg-type]
        z_dim,
        common,
    )


def _parse_range(option: str, text: str | None) -> Range | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ImportOptionError(
            f"{option} {text}: expected two numbers, as in {option} -1,1"
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImportOptionError(f"{option} {text}: expected black first, with a value below white")
    return low, high


def inputs(model: ModelProto) -> list[Port]:
    """Return the inputs that need a value: those without an initializer."""
    initialized = {weight.name for weight in model.graph.initializer}
    return [_port(each) for each in model.graph.input if each.name not in initialized]


def outputs(model: ModelProto) -> list[Port]:
    """Return the outputs."""
    return [_port(each) for each in model.graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        raise ModelImportError(f"{value.name} is not a tensor; only tensors are supported")
    tensor_type = value.type.tensor_type
    axes = [
        side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None
        for side in tensor_type.shape.dim
    ]
    return Port(value.name, tensor_type.elem_type, tuple(axes))


def map_ports(model: ModelProto, options: GraphOptions) -> dict[str, Port]:
    """Return the port for each name that model folders use.

    Uses `--map` first. Other names are inferred if only one name is possible. Raises
    ImportOptionError, with the ports of the graph, if a name cannot be inferred.
    """
    graph_inputs, graph_outputs = inputs(model), outputs(model)
    ports = _ports_of_options(options.maps, graph_inputs, graph_outputs)
    mapped = {port.name for port in ports.values()}
    remaining = [port for port in graph_inputs if port.name not in mapped]
    for port in remaining:
        name = _inferred_name(port, remaining, ports)
        if name is None:
            raise ImportOptionError(
                f"the graph takes {_listed(graph_inputs)}: assign a name from "
                f"{', '.join(INPUTS)} to each input, such as --map z={port.name}"
            )
        ports[name] = port
    if PIXELS not in ports:
        images = [port for port in graph_outputs if len(port.shape) in (3, 4)]
        possible = graph_outputs if len(graph_outputs) == 1 else images
        if len(possible) != 1:
            raise ImportOptionError(
                f"the graph returns {_listed(graph_outputs)}: select the image output, such as "
                f"--map pixels={graph_outputs[0].name}"
            )
        ports[PIXELS] = possible[0]
    _check(ports)
    return ports


def _ports_of_options(
    maps: Sequence[str], graph_inputs: Sequence[Port], graph_outputs: Sequence[Port]
) -> dict[str, Port]:
    ports: dict[str, Port] = {}
    for text in maps:
        name, _, port_name = text.partition("=")
        name = name.strip()
        if name not in (*INPUTS, PIXELS, "class"):
            names = ", ".join((*INPUTS, PIXELS))
            raise ImportOptionError(f"--map {text}: expected NAME=PORT with a NAME of {names}")
        kind, available = "input", graph_inputs
        if name == PIXELS:
            kind, available = "output", graph_outputs
        port = next((each for each in available if each.name == port_name.strip()), None)
        if port is None:
            raise ImportOptionError(
                f"--map {text}: the graph has no such {kind}; its {kind}s are {_listed(available)}"
            )
        if name == "class":
            name = CLASS_WEIGHTS if port.is_float else CLASS_INDEX
        if name in ports or any(port.name == each.name for each in ports.values()):
            raise ImportOptionError(f"--map {text}: the name or the port is mapped twice")
        ports[name] = port
    return ports


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(port.signature for port in ports) or "none"


def _inferred_name(port: Port, remaining: Sequence[Port], ports: Mapping[str, Port]) -> str | None:
    """Return the name of an unmapped input, or None if several names are possible."""
    if port.type in _INTEGERS and len(port.shape) <= 2:
        only_one = sum(each.type in _INTEGERS for each in remaining) == 1
        return CLASS_INDEX if only_one and not {CLASS_INDEX, CLASS_WEIGHTS} & set(ports) else None
    if sum(each.type not in _INTEGERS for each in remaining) != 1:
        return None
    if "z" not in ports and "image" not in ports:
        return "image" if _is_image(port) else "z"
    return None


def _is_image(port: Port) -> bool:
    """True if an input is an image rather than z with two axes of size 1."""
    if port.type == TensorProto.UINT8:
        return True
    if len(port.shape) != 4:
        return False
    sides = port.shape[2:] if port.shape[1] in (1, 3, 4) else port.shape[1:3]
    channels = {port.shape[1], port.shape[3]} & {1, 3, 4}
    return bool(channels) and all(side is None or side > 4 for side in sides)


def _check(ports: Mapping[str, Port]) -> None:
    """Raise ImportOptionError for invalid combinations of ports, and for unsupported types."""
    if ("z" in ports) == ("image" in ports):
        raise ImportOptionError("the graph must have either z or image among its inputs")
    if "mask" in ports and "image" not in ports:
        raise ImportOptionError("a mask needs an image")
    if CLASS_INDEX in ports and CLASS_WEIGHTS in ports:
        raise ImportOptionError("class_index and class_weights cannot be combined")
    if "image" in ports and {"truncation", CLASS_INDEX, CLASS_WEIGHTS} & set(ports):
        raise ImportOptionError("classes and truncation need z, not an image")
    for name, port in ports.items():
        integers_allowed = name in (CLASS_INDEX, "image", PIXELS, "mask")
        if not port.is_float and not (
            integers_allowed and port.type in (*_INTEGERS, TensorProto.UINT8)
        ):
            raise ImportOptionError(f"{port.signature} cannot be {name}: its type is not supported")
        if name == CLASS_INDEX and port.is_float:
            raise ImportOptionError(
                f"{port.signature} cannot be class_index; if it is one-hot, map class_weights"
            )


def z_dim(port: Port, options: GraphOptions) -> int:
    """Return the dimension of z. Raises ImportOptionError."""
    sides = port.shape[1:]
    if any(side is None for side in sides) or not sides:
        if options.z_dim is None:
            raise ImportOptionError(
                f"{port.signature} does not determine the dimension of z: specify --z-dim"
            )
        return options.z_dim
    dimension = math.prod(side for side in sides if side)
    if dimension > _MAX_Z_DIM:
        raise ImportOptionError(
            f"{port.signature} cannot be z: it has {dimension:,} values, at most {_MAX_Z_DIM:,} "
            "are supported"
        )
    return dimension


def class_count(ports: Mapping[str, Port], options: GraphOptions) -> int:
    """Return the number of classes, or 0 for a graph without classes. Raises ImportOptionError."""
    port = ports.get(CLASS_WEIGHTS)
    if port is None and CLASS_INDEX not in ports:
        return 0
    count = options.choices.classes or len(options.choices.class_names) or None
    sides = [side for side in port.shape[1:] if side != 1] if port else []
    if max(count or 0, *(side or 0 for side in sides), 0) > _MAX_CLASSES:
        raise ImportOptionError(
            f"the graph has too many classes; at most {_MAX_CLASSES:,} are supported"
        )
    if port is not None and len(sides) == 1 and sides[0] is not None:
        if count not in (None, sides[0]):
            raise ImportOptionError(f"--classes {count}: {port.signature} has {sides[0]} classes")
        return sides[0]
    if count is None:
        raise ImportOptionError(
            "the graph does not determine the number of classes: specify --classes or --class-names"
        )
    return count


def channels_first(shape: Sequence[int | None], layout: str | None, port_name: str) -> bool:
    """True for ``[N, C, H, W]``, False for ``[N, H, W, C]``.

    Raises ImportOptionError if neither `layout` nor the shape determines the channel axis.
    """
    if layout is not None:
        if layout.lower() not in ("nchw", "nhwc"):
            raise ImportOptionError(f"--layout {layout}: expected nchw or nhwc")
        return layout.lower() == "nchw"
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if first == last:
        raise ImportOptionError(
            f"{port_name} [{_axes(shape)}] does not determine the axis of its channels: specify "
            "--layout nchw or nhwc"
        )
    return first


def output_range(model: ModelProto, port: Port, options: GraphOptions) -> tuple[Range, str]:
    """Return the output values of black and white, and a text that explains how they were found.

    Raises ImportOptionError if neither the options nor the graph determine them.
    """
    if options.range is not None:
        return options.range, "from --range"
    if port.type == TensorProto.UINT8:
        return (0.0, 255.0), "the output is uint8"
    producers = {name: node for node in model.graph.node for name in node.output}
    node: NodeProto | None = producers.get(port.name)
    for _ in range(64):
        if node is None or node.op_type not in _VALUE_PRESERVING:
            break
        node = producers.get(node.input[0])
    if node is not None and node.op_type in ("Tanh", "Sigmoid"):
        low = -1.0 if node.op_type == "Tanh" else 0.0
        return (low, 1.0), f"the graph ends with {node.op_type}"
    raise ImportOptionError(
        f"the graph does not determine the values of black and white in {port.name}: specify "
        "--range -1,1 or 0,1 or 0,255"
    )
