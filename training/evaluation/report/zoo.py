"""The page of the models that ship: made from their manifests, and from how fast they run here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from service.runtime.files import replacing
from service.runtime.models.catalog import model_folders
from service.runtime.models.manifest import (
    GENERATOR,
    Manifest,
    Quality,
    TrainingProvenance,
    read_manifest,
)
from service.runtime.models.model import Model
from service.runtime.onnx.machine import cpu_model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.evaluation.errors import QualityError
from training.evaluation.report.figure_text import digests_of, direction, said

_ROWS = 8
# A model is timed for so long, or for one batch where that takes longer.
_TIMED_S = 1.5
# What the overview shows, where a model has it: a kernel distance, and three shares.
_OVERVIEW = ("KID", "precision", "recall", "class obedience", "PSNR", "SSIM")

Say = Callable[[str], None]


def write_zoo(models: Path, page: Path, say: Say = lambda _: None) -> None:
    """Write `page` in Markdown, of every model in the repository `models`.

    Raises QualityError where there is none, and what loading one raises.
    """
    folders = list(model_folders(models))
    if not folders:
        raise QualityError(f"{models} holds no models")
    lines = [
        "# The models that ship",
        "",
        "Made from the manifests in `models/` by `make zoo-page`; what is measured is measured by",
        "`ganymede evaluate`, through the runtime that serves. How to read the figures:",
        "[quality](quality.md).",
        "",
        f"Speed is that of one thread on {cpu_model()}, in batches of {_ROWS}, by the processor's "
        "own time.",
        "",
        "| model | pictures | size | pictures/s | "
        + " | ".join(f"{name} {direction(name)}" for name in _OVERVIEW)
        + " | training data |",
        "|---|---|---|---|" + "---|" * (len(_OVERVIEW) + 1),
    ]
    sections: list[str] = []
    for folder in folders:
        manifest = read_manifest(folder)
        say(f"{manifest.name}@{manifest.version}")
        speed = pictures_per_second(folder)
        lines.append(_overview(manifest, folder, speed))
        sections += _section(manifest, folder, os.path.relpath(folder, page.parent), speed)
    with replacing(page) as temporary:
        temporary.write_text("\n".join([*lines, "", *sections]))


def pictures_per_second(folder: Path) -> float:
    """Return what one thread makes in a second of the processor's time, the best batch of many."""
    model = Model(folder, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=_ROWS))
    feeds = model.feeds(range(_ROWS))
    best, began = float("inf"), time.process_time()
    while time.process_time() - began < _TIMED_S:
        before = time.process_time()
        model.run(GENERATOR, feeds)
        best = min(best, time.process_time() - before)
    return _ROWS / best


def _overview(manifest: Manifest, folder: Path, speed: float) -> str:
    anchor = manifest.name.replace(".", "")
    cells = [
        f"[{manifest.name}](#{anchor})",
        _pictures(manifest),
        f"{_megabytes(manifest, folder):.1f} MB",
        f"{speed:,.0f}",
        *(_overview_figure(manifest, name) for name in _OVERVIEW),
        _data(manifest),
    ]
    return f"| {' | '.join(cells)} |"


def _overview_figure(manifest: Manifest, name: str) -> str:
    figure = next((f for f in manifest.quality if f.metric.startswith(name)), None)
    return "–" if figure is None else said(figure.metric, figure.value)


def _section(manifest: Manifest, folder: Path, where: str, speed: float) -> list[str]:
    lines = [
        f"## {manifest.name}",
        "",
        f"{manifest.summary}. [Model card]({where}/README.md).",
        "",
        f"![{'seeds 0 to 63' if manifest.input is None else 'before and after'}]"
        f"({where}/preview.webp)",
        "",
        "| | |",
        "|---|---|",
        f"| Version | {manifest.version} |",
        f"| Pictures | {_pictures(manifest)} |",
        f"| Size | {_megabytes(manifest, folder):.1f} MB in {len(manifest.graphs)} "
        f"graph{'s' if len(manifest.graphs) > 1 else ''} |",
        f"| Speed | {speed:,.0f} pictures/s |",
        f"| Training data | {_data(manifest)} |",
        f"| Licence of the weights | {manifest.license} |",
    ]
    if manifest.classes:
        lines.append(f"| Classes | {', '.join(manifest.classes)} |")
    lines.append("")
    if not manifest.quality:
        return [*lines, "Not measured yet.", ""]
    return [*lines, *_quality(manifest.quality), ""]


def _quality(figures: tuple[Quality, ...]) -> list[str]:
    lines = [
        "| figure | | value | 95% interval | beside it | counts |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        low, high = (said(figure.metric, end) for end in (figure.low, figure.high))
        real = said(figure.metric, figure.real)
        if figure.baseline is not None:
            real = f"{figure.baseline_name}: {said(figure.metric, figure.baseline)}"
        if figure.real is not None and figure.real_samples not in (None, figure.samples):
            real += f" ({figure.real_samples:,})"
        lines.append(
            f"| {figure.metric} | {direction(figure.metric)} | "
            f"{said(figure.metric, figure.value)} | {f'{low} to {high}' if low else ''} | {real} | "
            f"{figure.samples:,} against {figure.reference_samples:,} |"
        )
    first = figures[0]
    seeds = ""
    if first.seed_start is not None:
        seeds = f" of seeds {first.seed_start} to {first.seed_start + first.samples - 1}"
    told = f"{first.samples:,} samples{seeds}"
    if first.truncation is not None:
        told += f", truncation {first.truncation:g}"
    told += f", against {first.reference_samples:,} pictures of {first.reference}"
    if digests := digests_of(figures).get(first.reference):
        told += f" (sha256 {digests})"
    lines += ["", f"{told}."]
    # Of models from pictures to pictures the first figures look at the pixels alone.
    on_features = next(
        (f for f in figures if f.feature_network and f.metric != "class obedience"), None
    )
    if on_features is not None:
        lines[-1] += f" Features: {on_features.feature_network}"
        lines[-1] += f"; resized: {on_features.resizing}." if on_features.resizing else "."
    judge = next((f for f in figures if f.metric == "class obedience"), None)
    if judge is not None:
        lines.append(f"Class obedience by {judge.feature_network}.")
    return lines


def _pictures(manifest: Manifest) -> str:
    image = manifest.image
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}[image.channels]
    return f"{image.width}×{image.height} {kind}"


def _megabytes(manifest: Manifest, folder: Path) -> float:
    files = [file for graph in manifest.graphs.values() for file, _ in graph.files]
    return sum((folder / file).stat().st_size for file in files) / 1e6


def _data(manifest: Manifest) -> str:
    made = manifest.provenance
    if isinstance(made, TrainingProvenance):
        return f"{made.dataset} ({made.dataset_license})"
    return f"imported from {made.source_file}"
