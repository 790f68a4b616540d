"""What int8 is worth on this CPU: how much faster a shipped graph runs, and what quality it costs.

Convolutions and products are quantised as ONNX Runtime's own tool does it: weights by channel,
activations by the ranges that a few batches of the model's own inputs had. Both graphs then make
the pictures of other seeds; how far those are apart stands beside how much sooner they are there.

Example: python -m benchmarks.quantized --model esrgan-flowers
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from rich.table import Table

from benchmarks.measure import CONVOLUTIONAL, Spread, in_turns, machine, ratios, seconds, tell
from service.runtime.models.manifest import GENERATOR, SYNTHESIS
from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session

BATCHES = (1, 8)
# Seeds whose inputs the ranges are taken of, and those whose pictures are compared.
_CALIBRATED = range(1000, 1064)
_COMPARED = range(64)
_AT_ONCE = 8


class _Inputs(CalibrationDataReader):
    """A model's own inputs, in batches."""

    def __init__(self, feeds: dict[str, Array]) -> None:
        rows = len(next(iter(feeds.values())))
        self._batches = (
            {name: array[start : start + _AT_ONCE] for name, array in feeds.items()}
            for start in range(0, rows, _AT_ONCE)
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch; None at the end."""
        return next(self._batches, None)


def inputs(model: Model, seeds: range) -> dict[str, Array]:
    """Return what goes into the graph of a model that does the work."""
    if model.manifest.styles is not None:
        return {"w": model.styles(seeds)}
    return model.feeds(seeds)


def measure(
    folder: Path, batches: list[int], rounds: int, scratch: Path
) -> list[dict[str, object]]:
    """Return a row for each batch."""
    threads = usable_cpus()
    plan = ExecutionPlan(1, threads, max(batches))
    model = Model(folder, Provider.CPU, plan)
    usual = SYNTHESIS if model.manifest.styles is not None else GENERATOR
    # Of several directions either: they are alike.
    role = next(iter(model.directions), usual)
    path = folder / model.manifest.graphs[role].file
    small = scratch / f"{model.manifest.name}.onnx"
    quantize_static(
        path,
        small,
        _Inputs(inputs(model, _CALIBRATED)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    whole, quantised = Session(path, Provider.CPU, plan), Session(small, Provider.CPU, plan)
    feeds = inputs(model, _COMPARED)
    made = [each.run(feeds)["pixels"].astype(np.float64) for each in (whole, quantised)]
    error = float(np.square(made[0] - made[1]).mean())
    rows = []
    for batch in batches:
        some = {name: array[:batch] for name, array in feeds.items()}
        spent = in_turns(
            {
                "float32": lambda some=some: seconds(lambda: whole.run(some), 0.2),
                "int8": lambda some=some: seconds(lambda: quantised.run(some), 0.2),
            },
            rounds,
        )
        rows.append(
            {
                "model": model.manifest.name,
                "batch": batch,
                "faster": ratios(spent["float32"], spent["int8"]).as_json(),
                "psnr_db": 10 * np.log10(255**2 / max(error, 1e-10)),
                "levels_apart": float(np.abs(made[0] - made[1]).max()),
                "size": small.stat().st_size / path.stat().st_size,
            }
        )
    return rows


def main(
    model: Annotated[list[str], typer.Option(help="May be repeated.")] = list(CONVOLUTIONAL),  # noqa: B006
    models: Annotated[Path, typer.Option(help="The models folder.")] = Path("models"),
    batch: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(BATCHES),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    # It advises a step that these graphs have had when they were exported.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row
            for each in model
            for row in measure(models / each / "1", batch, rounds, Path(scratch))
        ]
    table = Table("model", "batch", "times as fast", "PSNR, dB", "levels apart", "of the size")
    for row in rows:
        table.add_row(
            str(row["model"]),
            str(row["batch"]),
            f"{Spread(**row['faster']):.2f}",
            f"{row['psnr_db']:.1f}",
            f"{row['levels_apart']:.0f}",
            f"{row['size']:.2f}",
        )
    result = {
        "rows": rows,
        "threads": usable_cpus(),
        "machine": machine(("onnxruntime-gpu", "onnxruntime")),
    }
    tell(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
