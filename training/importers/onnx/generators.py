"""A generator that is ONNX already: understood by running it, wrapped, and held against itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from service.runtime.latent import seeds as latents
from service.runtime.latent.seeds import Distribution
from service.runtime.models.manifest import (
    CLASS_INDEX,
    CLASS_WEIGHTS,
    GENERATOR,
    Graph,
    ImageInput,
    LatentSpace,
    Task,
    Truncation,
)
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session
from training.export.onnx_files import graph_entry, save
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.base import (
    ConvertedModel,
    FormatInfo,
    class_names,
    image_spec,
    latent_distribution,
)
from training.importers.formats.noise.sequential import picture_of
from training.importers.onnx.ports import (
    PIXELS,
    GraphOptions,
    Port,
    Range,
    channels_first,
    class_count,
    inputs,
    mapped,
    outputs,
    range_of,
    z_dim,
)
from training.importers.onnx.reference import (
    Feeds,
    Original,
    Pixels,
    Trial,
    levels,
    share_beyond,
    to_pixels,
)
from training.importers.onnx.wrapping import Plan, wrap
from training.importers.reading.onnx_files import read_graph, without_dropout

CHECKED_BATCHES = (1, 2, 7, 32)
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)
_BYTES: Range = (0.0, 255.0)
# Steps of the sides that networks of up to eight halvings need.
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LEAST_TRIED = 32
# The side that pictures are shown at where nothing is said, and that of those that are enlarged.
_LARGE, _SMALL = 256, 64
# Beyond this share of cut values, a range is more likely wrong than a picture glaring.
_MANY_CUT = 0.02


class OnnxFormat(FormatInfo):
    """Any graph from latents, or from pictures, to pictures."""

    name = "onnx"
    title = "ONNX"
    origin = "whoever exported the graph"


@dataclass(frozen=True)
class Wrapped:
    """A graph that passed its checks, ready to be written."""

    model: ModelProto

    def write(self, folder: Path) -> dict[str, Graph]:
        """Write the graph into a model folder, and return it by its role."""
        path = folder / f"{GENERATOR}.onnx"
        save(self.model, path)
        return {GENERATOR: graph_entry(path, Session(path, Provider.CPU, _PLAN))}


def describe_graph(path: Path) -> list[str]:
    """Return what is in a graph, in lines. Raises ModelImportError."""
    model = read_graph(path)
    operators = sorted({node.op_type for node in model.graph.node})
    lines = [
        f"{path}: an ONNX graph of {len(model.graph.node)} operators: {', '.join(operators)}",
        *(f"  takes {port.says}" for port in inputs(model)),
        *(f"  gives {port.says}" for port in outputs(model)),
    ]
    try:
        said = mapped(model, GraphOptions())
        return [*lines, *(f"  {port.name} would be {name}" for name, port in said.items())]
    except ImportOptionError as error:
        return [*lines, f"  {error}"]


def convert_graph(path: Path, options: GraphOptions) -> ConvertedModel:
    """Wrap a graph to take and give what a model folder's graphs do. Raises ModelImportError."""
    model = read_graph(path)
    try:
        return _convert(model, options)
    except FormatMismatchError as error:
        raise ModelImportError(f"{path}: {error}") from error
    except ModelImportError as error:
        raise type(error)(f"{path}: {error}") from error


def _convert(model: ModelProto, options: GraphOptions) -> ConvertedModel:
    said = options.said
    drops = without_dropout(model)
    ports = mapped(model, options)
    classes = class_count(ports, options)
    comes_out, why = range_of(model, ports[PIXELS], options)
    plan = _plan(ports, options, classes, comes_out)
    given = _given(plan)
    distribution = latent_distribution(said)

    def feeds(count: int, height: int = 0, width: int = 0) -> dict[str, Array]:
        return _feeds(plan, distribution, count, height or _side(given), width or _side(given))

    original = Original(model)
    if given is None or given.fixed:
        plan = _with_pictures(plan, original.run(plan, feeds(plan.batch or 1)), options)
    else:
        plan, given = _measured(original, plan, given, feeds, options)
    height, width, channels = levels(plan, original.values(plan, feeds(1))).shape[1:]
    image = image_spec(height, width, channels)
    if given is not None:
        given = _with_factor(given, height, width)
    free = given is not None and not given.fixed
    sides = (None, None) if free else (height, width)
    plan = replace(plan, rows=dict(plan.rows) | {PIXELS: (*sides, channels)})

    rows = 32 if image.pixels <= 128**2 else 8 if image.pixels <= 256**2 else 3
    series = [feeds(rows)]
    if given is not None and free:
        step = given.multiple
        series = [feeds(min(rows, 8)), feeds(2, given.side + step, max(given.side - step, step))]
    wrapped, notes = _checked(original, model, plan, series)
    black, white = comes_out
    return ConvertedModel(
        summary="Imported graph",
        task=_task(given, options),
        graph_specs=(),
        image=image,
        details=[
            *((ours, port.says) for ours, port in ports.items()),
            ("pictures", f"{width}×{height}×{channels}"),
            ("black and white", f"{black:g} and {white:g}, {why}"),
        ],
        notes=[*notes, *(["Dropout is off."] if drops else [])],
        latent=None
        if given is not None
        else LatentSpace(
            dimension=plan.rows["z"][0] or 1,
            distribution=distribution,
            truncation=Truncation() if "truncation" in ports else None,
        ),
        input=given,
        classes=class_names(classes, said) if classes else (),
        onnx_graphs=Wrapped(wrapped),
    )


def _plan(ports: Mapping[str, Port], options: GraphOptions, classes: int, comes_out: Range) -> Plan:
    """Return what is known of a graph before it has run. Raises ImportOptionError."""
    image = ports.get("image")
    goes_in = options.input_range or options.range or comes_out
    if image is not None and image.type == TensorProto.UINT8:
        goes_in = _BYTES
    first = False
    rows: dict[str, tuple[int | None, ...]] = {
        CLASS_INDEX: (),
        CLASS_WEIGHTS: (classes,),
        "truncation": (),
    }
    if image is None:
        rows["z"] = (z_dim(ports["z"], options),)
    else:
        if len(image.shape) == 4:
            first = channels_first(image.shape, options.layout, "image")
        elif len(image.shape) != 3:
            raise ImportOptionError(
                f"{image.says} cannot be image: it has other axes than a picture"
            )
        sides, channels = _sides(image, first=first)
        channels = channels or options.said.channels
        if channels is None:
            raise ImportOptionError(
                f"{image.says} does not tell how many channels it has: --channels"
            )
        rows |= {"image": (*sides, channels), "mask": sides}
    leading = [port.shape[0] for name, port in ports.items() if name != PIXELS and port.shape]
    # A graph without an axis for the batch takes one row.
    batch = leading[0] if leading else 1
    unit = options.said.latent == "unit"
    return Plan(ports, rows, goes_in, comes_out, first, out_first=False, unit=unit, batch=batch)


def _sides(port: Port, *, first: bool) -> tuple[tuple[int | None, int | None], int | None]:
    """Return height and width, and the channels, of pictures that go in."""
    if len(port.shape) == 3:
        return (port.shape[1], port.shape[2]), 1
    if first:
        return (port.shape[2], port.shape[3]), port.shape[1]
    return (port.shape[1], port.shape[2]), port.shape[3]


def _given(plan: Plan) -> ImageInput | None:
    """Return what is known of the pictures that go in. Raises ModelImportError."""
    if "image" not in plan.ports:
        return None
    height, width, channels = plan.rows["image"]
    if channels not in (1, 3, 4):
        raise FormatMismatchError(f"pictures of {channels} channels are not served")
    masked = "mask" in plan.ports
    if height is None and width is None:
        return ImageInput(channels=channels, side=_LARGE, masked=masked)
    if height is None or width is None or height != width:
        raise ModelImportError(
            f"it takes pictures of {plan.ports['image'].says}; squares or any size are served"
        )
    image_spec(height, width, channels)
    return ImageInput(channels=channels, side=height, fixed=True, masked=masked)


def _side(given: ImageInput | None) -> int:
    return given.side if given is not None else 0


def _feeds(
    plan: Plan, distribution: Distribution, count: int, height: int, width: int
) -> dict[str, Array]:
    """Return rows of what the contract names."""
    made: dict[str, Array] = {}
    seeds = range(count)
    for name in plan.inputs:
        if name == "z":
            made[name] = latents.draw(seeds, plan.rows["z"][0] or 1, distribution)
        elif name == "image":
            drawn = probe_images(seeds, max(height, width), plan.rows["image"][2] or 1)
            made[name] = np.ascontiguousarray(drawn[:, :height, :width])
        elif name == "mask":
            made[name] = np.ascontiguousarray(
                probe_masks(seeds, max(height, width))[:, :height, :width]
            )
        elif name == "truncation":
            made[name] = np.linspace(0.5, 1, count, dtype=np.float32)
        elif name == CLASS_INDEX:
            made[name] = np.arange(count) % plan.classes
        else:
            made[name] = np.zeros((count, plan.classes), np.float32)
            made[name][np.arange(count), np.arange(count) % plan.classes] = 1
    return made


def _with_pictures(plan: Plan, made: Array, options: GraphOptions) -> Plan:
    """Return the plan with the layout of what a graph gave."""
    port = plan.ports[PIXELS]
    if made.ndim == 2:
        side, channels = picture_of(made.shape[1], options.said)
        first = (options.layout or "nchw").lower() == "nchw"
        row = (channels, side, side) if first else (side, side, channels)
        return replace(plan, unflattened=row, out_first=first)
    if made.ndim == 4:
        return replace(plan, out_first=channels_first(made.shape, options.layout, port.name))
    if made.ndim != 3:
        raise FormatMismatchError(f"{port.name} has {made.ndim} axes, and is no picture")
    return plan


def _measured(
    original: Original,
    plan: Plan,
    given: ImageInput,
    feeds: Callable[..., Feeds],
    options: GraphOptions,
) -> tuple[Plan, ImageInput]:
    """Find out by trying in which steps sides may vary, and how much larger what comes out is.

    Returns the plan and the pictures that go in with what was found. Raises ModelImportError.
    """
    reason = "its pictures are of no whole multiple of the size of those that go in"
    for step in _STEPS:
        # Odd multiples, which no larger step has, and as few pixels as that takes.
        times = max(_LEAST_TRIED // step, 0) | 1
        high, wide = (times + 2) * step, times * step
        try:
            made = original.run(plan, feeds(plan.batch or 1, high, wide))
        except ModelImportError as error:
            reason = str(error)
            continue
        plan = _with_pictures(plan, made, options)
        shape = levels(plan, made).shape[1:3]
        factor = shape[0] // high
        if factor and shape == (factor * high, factor * wide):
            side = options.said.side or (_LARGE if factor == 1 else _SMALL)
            found = {"factor": factor, "multiple": step, "side": -(-side // step) * step}
            return plan, given.model_copy(update=found)
    raise ModelImportError(reason)


def _with_factor(given: ImageInput, height: int, width: int) -> ImageInput:
    """Return how much larger the pictures that come out are. Raises ModelImportError."""
    factor = max(height // given.side, 1)
    if (height, width) != (factor * given.side, factor * given.side):
        raise ModelImportError(
            f"it makes pictures of {width}×{height} from those of {given.side}×{given.side}, "
            "which is no whole multiple"
        )
    return given.model_copy(update={"factor": factor})


def _task(given: ImageInput | None, options: GraphOptions) -> Task:
    """Return which route serves it. Raises ImportOptionError for one that cannot."""
    if given is None:
        fitting: tuple[Task, ...] = ("generate",)
    elif given.masked:
        fitting = ("inpaint",)
    elif given.factor > 1:
        fitting = ("upscale", "translate", "colorize")
    else:
        fitting = ("translate", "colorize", "upscale")
    task = options.task or fitting[0]
    if task not in fitting:
        raise ImportOptionError(
            f"--task {task}: what it takes and gives is served as {' or '.join(fitting)}"
        )
    return task


def _checked(
    original: Original, model: ModelProto, plan: Plan, series: Sequence[Feeds]
) -> tuple[ModelProto, list[str]]:
    """Return the graph with the steps around it, in the first form whose rows are independent.

    As it is, if its batch may be any; with its sizes freed; or with a row at a time in a loop.
    Raises ModelImportError.
    """
    expected = []
    notes = []
    for feeds in series:
        values = original.values(plan, feeds)
        if not np.array_equal(values, original.values(plan, feeds)):
            raise ModelImportError("it gives other pictures for the same latent: it draws lots")
        made = levels(plan, values)
        if (cut := share_beyond(made)) > _MANY_CUT:
            notes.append(
                f"{cut:.0%} of the values lie beyond black and white and are cut; "
                "if pictures glare, say another --range."
            )
        expected.append(to_pixels(made))
    reason = ""
    # Row by row can be run what says that it takes one row, or any.
    one = plan.batch in (None, 1)
    as_it_is = [(None, False), (plan.batch or 1, False)] if plan.has_batch else []
    for freed, looped in [*as_it_is, *([(None, True)] if one else [])]:
        wrapped = wrap(model, plan, freed=freed, looped=looped)
        fault = _fault(wrapped, series, expected)
        if fault is None:
            if looped:
                notes.append("It takes one row at a time, so rows are run one after another.")
            return wrapped, list(dict.fromkeys(notes))
        reason = reason or fault
        if plan.batch is None and fault.startswith(_DEPENDENT):
            break
    if not one:
        reason = (
            f"it takes batches of {plan.batch} alone; export it with a dynamic batch ({reason})"
        )
    raise ModelImportError(reason)


_DEPENDENT = "its rows depend on each other"


def _fault(wrapped: ModelProto, series: Sequence[Feeds], expected: Sequence[Pixels]) -> str | None:
    """Return what is wrong with a wrapped graph at several batches, or None."""
    try:
        trial = Trial(wrapped)
    except ModelImportError as error:
        return str(error)
    for feeds, right in zip(series, expected, strict=True):
        rows = None
        for size in CHECKED_BATCHES:
            parts = []
            for start in range(0, len(right), size):
                part = {name: array[start : start + size] for name, array in feeds.items()}
                try:
                    parts.append(trial.run(part)[PIXELS])
                except ModelImportError as error:
                    return f"at a batch of {size} {error}"
            made = np.concatenate(parts)
            if made.shape != right.shape:
                return f"at a batch of {size} it makes pictures of {list(made.shape)}"
            apart = int(np.abs(made.astype(np.int16) - right).max())
            if apart > 1:
                return f"{_DEPENDENT}: at a batch of {size} they are {apart} levels from alone"
            rows = made if rows is None else rows
            if not np.array_equal(made, rows):
                return f"at a batch of {size} its rows are not, bit for bit, what they are alone"
    return None
