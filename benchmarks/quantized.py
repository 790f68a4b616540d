"""Measure int8 on this CPU: the speed-up of the included graphs and the loss of quality.

Convolutions and matrix products are quantized with ONNX Runtime's own tool: weights per channel,
activations by their value ranges on a few batches of inputs. Both graphs then generate the images
of other seeds. The table shows the difference of the images and the speed-up.

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

from benchmarks.measure import CONVOLUTIONAL, Spread, in_turns, machine, ratios, report, seconds
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR, SYNTHESIS
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session

BATCHES = (1, 8)
# Seeds for calibration, and seeds whose images are compared.
_CALIBRATED = range(1000, 1064)
_COMPARED = range(64)
_AT_ONCE = 8


class _Inputs(CalibrationDataReader):
    """The model's own inputs in batches."""

    def __init__(self, feeds: dict[str, Array]) -> None:
        rows = len(next(iter(feeds.values())))
        self._batches = (
            {name: array[start : start + _AT_ONCE] for name, array in feeds.items()}
            for start in range(0, rows, _AT_ONCE)
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, or None at the end."""
        return next(self._batches, None)


def inputs(model: Model, seeds: range) -> dict[str, Array]:
    """Return the inputs of the model's most expensive graph."""
    if model.manifest.styles is not None:
        return {"w": model.styles(seeds)}
    return model.feeds(seeds)


def measure(
    folder: Path, batches: list[int], rounds: int, scratch: Path
) -> list[dict[str, object]]:
    """Return one row per batch size."""
    threads = usable_cpus()
    plan = ExecutionPlan(1, threads, max(batches))
    model = Model(folder, Provider.CPU, plan)
    usual = SYNTHESIS if model.manifest.styles is not None else GENERATOR
    # The directions of a CycleGAN have the same architecture: one of them is enough.
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
    original, quantized = Session(path, Provider.CPU, plan), Session(small, Provider.CPU, plan)
    feeds = inputs(model, _COMPARED)
    images = [each.run(feeds)["pixels"].astype(np.float64) for each in (original, quantized)]
    error = float(np.square(images[0] - images[1]).mean())
    rows = []
    for batch in batches:
        some = {name: array[:batch] for name, array in feeds.items()}
        spent = in_turns(
            {
                "float32": lambda some=some: seconds(lambda: original.run(some), 0.2),
                "int8": lambda some=some: seconds(lambda: quantized.run(some), 0.2),
            },
            rounds,
        )
        rows.append(
            {
                "model": model.manifest.name,
                "batch": batch,
                "faster": ratios(spent["float32"], spent["int8"]).as_json(),
                "psnr_db": 10 * np.log10(255**2 / max(error, 1e-10)),
                "levels_apart": float(np.abs(images[0] - images[1]).max()),
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
    # Silences advice to preprocess the graphs: the exporter has done so.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row
            for each in model
            for row in measure(models / each / "1", batch, rounds, Path(scratch))
        ]
    table = Table(
        "model", "batch", "relative speed", "PSNR, dB", "largest difference", "relative size"
    )
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
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
