"""Wraps a graph, and checks that its images equal the original's and its rows are independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from training.importers.errors import ModelImportError
from training.importers.onnx.ports import PIXELS
from training.importers.onnx.reference import (
    Feeds,
    OriginalGraph,
    Pixels,
    QuietSession,
    clipped_share,
    to_levels,
    to_pixels,
)
from training.importers.onnx.wrapping import GraphInterface, wrap

CHECKED_BATCHES = (1, 2, 7, 32)
# With more clipped values, the range is probably wrong.
_MAX_CLIPPED = 0.02
_DEPENDENT_ROWS = "the rows of a batch depend on each other"


def wrap_and_check(
    original: OriginalGraph,
    model: ModelProto,
    interface: GraphInterface,
    feeds: Sequence[Feeds],
) -> tuple[ModelProto, list[str]]:
    """Wrap a graph so that its rows are independent; return it with notes for the user.

    Tries, in this order: the unchanged graph; the graph with a dynamic batch size in its constant
    shapes; the graph in a loop over rows. Raises ModelImportError if all of them fail.
    """
    expected = []
    notes = []
    for rows in feeds:
        values = original.values(interface, rows)
        if not np.array_equal(values, original.values(interface, rows)):
            raise ModelImportError("the graph is random: its images differ for equal inputs")
        levels = to_levels(interface, values)
        if (share := clipped_share(levels)) > _MAX_CLIPPED:
            notes.append(
                f"{share:.0%} of the values are beyond black and white and are clipped; if the "
                "images look wrong, set --range."
            )
        expected.append(to_pixels(levels))
    # A graph that declares a larger batch cannot run row by row.
    can_loop = interface.batch in (None, 1)
    forms: list[tuple[int | None, bool]] = []
    if interface.has_batch_axis:
        forms = [(None, False), (interface.batch or 1, False)]
    if can_loop:
        forms.append((None, True))
    reason = ""
    for fixed_batch, row_by_row in forms:
        wrapped = wrap(model, interface, fixed_batch=fixed_batch, row_by_row=row_by_row)
        fault = _find_fault(wrapped, feeds, expected)
        if fault is None:
            if row_by_row:
                notes.append("The graph takes one row at a time, so the rows run in a loop.")
            return wrapped, list(dict.fromkeys(notes))
        reason = reason or fault
        if interface.batch is None and fault.startswith(_DEPENDENT_ROWS):
            break
    if not can_loop:
        reason = (
            f"it takes batches of {interface.batch} only; export it with a dynamic batch ({reason})"
        )
    raise ModelImportError(reason)


def _find_fault(
    wrapped: ModelProto, feeds: Sequence[Feeds], expected: Sequence[Pixels]
) -> str | None:
    """Run a wrapped graph at several batch sizes and describe the first fault, or return None."""
    try:
        session = QuietSession(wrapped)
    except ModelImportError as error:
        return str(error)
    for rows, right in zip(feeds, expected, strict=True):
        single_rows = None
        for size in CHECKED_BATCHES:
            parts = []
            for start in range(0, len(right), size):
                batch = {name: array[start : start + size] for name, array in rows.items()}
                try:
                    parts.append(session.run(batch)[PIXELS])
                except ModelImportError as error:
                    return f"at batch size {size}: {error}"
            pixels = np.concatenate(parts)
            if pixels.shape != right.shape:
                return f"at batch size {size} it returns images of shape {list(pixels.shape)}"
            difference = int(np.abs(pixels.astype(np.int16) - right).max())
            if difference > 1:
                return (
                    f"{_DEPENDENT_ROWS}: at batch size {size} they differ by {difference} levels "
                    "from single rows"
                )
            single_rows = pixels if single_rows is None else single_rows
            if not np.array_equal(pixels, single_rows):
                return f"at batch size {size} its rows are not bit-identical to single rows"
    return None
