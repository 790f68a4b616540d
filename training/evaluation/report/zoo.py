"""Writes docs/zoo.md, the page of the included models, from their manifests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service.runtime.files import replacing
from service.runtime.formatting import counted
from service.runtime.generation import execute, text_plan
from service.runtime.models.catalog import model_folders
from service.runtime.models.manifest import Manifest, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.measurements import Quality
from service.runtime.models.parts.provenance import TrainingProvenance
from service.runtime.onnx.machine import cpu_model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.text.sampling import TextSource
from training.evaluation.errors import QualityError
from training.evaluation.metrics import find_metric, get_metric
from training.evaluation.report.formatting import (
    by_condition,
    direction_arrow,
    format_interval,
    format_real,
    format_value,
    metric_title,
    reference_digests,
)

_ROWS = 8
# The time in seconds to measure the speed of a model. At least one batch is measured.
_TIMING_SECONDS = 1.5
# The names of the metrics in the overview.
_OVERVIEW = ("kernel_distance", "precision", "recall", "class_accuracy", "psnr", "ssim")

Report = Callable[[str], None]


def write_zoo(
    models: Path,
    page: Path,
    *,
    featured: Mapping[str, Path] | None = None,
    report: Report = lambda _: None,
) -> None:
    """Write a Markdown page that describes every model in the repository `models`.

    The page begins with the models `featured`, by name, each with an animation of a latent walk.
    `report` is called with the name of each model. Raises QualityError if there are no models or
    no model of a featured name, and the errors of loading them.
    """
    # A text encoder is a part of other models.
    folders = [
        folder for folder in model_folders(models) if read_manifest(folder).text_encoder is None
    ]
    if not folders:
        raise QualityError(f"there are no models in {models}")
    titles = [f"{_overview_title(name)} {get_metric(name).arrow}" for name in _OVERVIEW]
    manifests = {folder: read_manifest(folder) for folder in folders}
    lines = [
        "# Included models",
        "",
        *_opening({m.name: m for m in manifests.values()}, featured or {}, page),
        "Generated from the manifests in `models/` by `make zoo-page`. The metrics were measured",
        "by `ganymede evaluate`, through the runtime that serves the models. How to read them:",
        "[quality](quality.md).",
        "",
        f"Speed is measured on one thread of {cpu_model()}, in batches of {_ROWS}, in CPU time.",
        "",
        f"| model | output | size | speed | {' | '.join(titles)} | training data |",
        "|---|---|---|---|" + "---|" * (len(_OVERVIEW) + 1),
    ]
    sections: list[str] = []
    for folder, manifest in manifests.items():
        report(f"{manifest.name}@{manifest.version}")
        speed = f"{outputs_per_second(folder):,.0f} {manifest.output.kind}/s"
        lines.append(_overview_row(manifest, folder, speed))
        sections += _section(manifest, folder, os.path.relpath(folder, page.parent), speed)
    with replacing(page) as temporary:
        temporary.write_text("\n".join([*lines, "", *sections]))


def _opening(
    manifests: Mapping[str, Manifest], featured: Mapping[str, Path], page: Path
) -> list[str]:
    """Return the animations of the featured models, each with what the model is good for."""
    lines = []
    for name, animation in featured.items():
        if name not in manifests:
            raise QualityError(f"the featured model {name} does not exist")
        manifest = manifests[name]
        image = os.path.relpath(animation, page.parent)
        lines += [
            f"![A walk through the latent space of {name}]({image})",
            "",
            f"[{name}](#{_anchor(name)}): {manifest.summary}, {_output_format(manifest)}.",
            *([f"Good for {manifest.good_for}."] if manifest.good_for else []),
            "",
        ]
    return lines


def outputs_per_second(folder: Path) -> float:
    """Return the images, sounds or texts per second of CPU time, on one thread.

    It is the rate of the fastest batch.
    """
    model = Model(folder, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=_ROWS))
    generate = _generation(model)
    best, started = float("inf"), time.process_time()
    while time.process_time() - started < _TIMING_SECONDS:
        before = time.process_time()
        generate()
        best = min(best, time.process_time() - before)
    return _ROWS / best


def _generation(model: Model) -> Callable[[], object]:
    """Return a function that generates one batch, of texts at temperature 1."""
    if (text := model.manifest.text) is None:
        feeds = model.feeds(range(_ROWS))
        return lambda: model.run(GENERATOR, feeds)
    sources = [TextSource(seed, text.max_length) for seed in range(_ROWS)]
    return lambda: execute(text_plan(model.manifest, sources), model.run)


def _overview_title(name: str) -> str:
    metric = get_metric(name)
    return metric.key if metric.names_network else metric_title(metric.key)


def _overview_row(manifest: Manifest, folder: Path, speed: str) -> str:
    cells = [
        f"[{manifest.name}](#{_anchor(manifest.name)})",
        _output_format(manifest),
        f"{_megabytes(manifest, folder):.1f} MB",
        speed,
        *(_overview_value(manifest, name) for name in _OVERVIEW),
        _training_data(manifest),
    ]
    return f"| {' | '.join(cells)} |"


def _anchor(name: str) -> str:
    """Return the anchor of a model's section."""
    return name.replace(".", "")


def _overview_value(manifest: Manifest, name: str) -> str:
    metric = get_metric(name)
    for figure in manifest.quality:
        if find_metric(figure.metric) is metric:
            return metric.format(figure.value)
    return "–"


def _section(manifest: Manifest, folder: Path, location: str, speed: str) -> list[str]:
    preview = "samples" if manifest.input is None else "inputs and outputs"
    if manifest.image is not None and manifest.input is None:
        preview = "seeds 0 to 63"
    lines = [
        f"## {manifest.name}",
        "",
        f"{manifest.summary}. [Model card]({location}/README.md).",
        "",
        *([f"Good for {manifest.good_for}.", ""] if manifest.good_for else []),
        f"![{preview}]({location}/preview.webp)",
        "",
        "| | |",
        "|---|---|",
        f"| Version | {manifest.version} |",
        f"| Output | {_output_format(manifest)} |",
        f"| Size | {_megabytes(manifest, folder):.1f} MB in "
        f"{counted(len(manifest.graphs), 'graph')} |",
        f"| Speed | {speed} |",
        f"| Training data | {_training_data(manifest)} |",
        f"| License of the weights | {manifest.license} |",
    ]
    if manifest.classes:
        lines.append(f"| Classes | {', '.join(manifest.classes)} |")
    lines += [*_latent_tools(manifest), ""]
    if not manifest.quality:
        return [*lines, "Not measured yet.", ""]
    table = _metric_table if manifest.text is None else _text_table
    kind = manifest.output.kind
    return [*lines, *table(manifest.quality), "", *_basis(manifest.quality, kind), ""]


def _latent_tools(manifest: Manifest) -> list[str]:
    """Return a row for each latent tool that the model has. The model card has their figures."""
    lines = []
    if manifest.directions:
        names = ", ".join(f"`{direction.name}`" for direction in manifest.directions.items)
        lines.append(f"| [Directions](http.md#edits) | {names} |")
    if manifest.encoder:
        lines.append(f"| [Encoder](http.md#inversion) | {manifest.encoder.passes} passes |")
    if manifest.discriminator:
        lines.append("| [Discriminator](http.md#the-best-images) | `rank` keeps the best images |")
    if manifest.trainable:
        lines.append("| Trainable weights | for `ganymede train RECIPE from=MODEL` |")
    return lines


def _metric_table(figures: tuple[Quality, ...]) -> list[str]:
    lines = [
        "| metric | | value | 95% interval | real images or baseline | counts |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        other = format_real(figure)
        if figure.baseline is not None:
            other = f"{figure.baseline_name}: {format_value(figure.metric, figure.baseline)}"
        lines.append(
            f"| {metric_title(figure.metric)} | {direction_arrow(figure.metric)} | "
            f"{format_value(figure.metric, figure.value)} | {format_interval(figure)} | {other} | "
            f"{figure.samples:,} against {figure.reference_samples:,} |"
        )
    return lines


def _text_table(figures: tuple[Quality, ...]) -> list[str]:
    """Return a row for each generator and temperature, and last the training texts."""
    groups = by_condition(figures)
    first = next(iter(groups.values()))
    titles = [
        f"{metric_title(f.metric.partition(', ')[0])} {direction_arrow(f.metric)}" for f in first
    ]
    rows = [
        (condition, [format_value(f.metric, f.value) for f in group])
        for condition, group in groups.items()
    ]
    rows.append(("training texts", [format_value(f.metric, f.real) for f in first]))
    return [
        f"| generator | {' | '.join(title.strip() for title in titles)} |",
        "|---" * (len(first) + 1) + "|",
        *(f"| {condition} | {' | '.join(values)} |" for condition, values in rows),
    ]


def _basis(figures: tuple[Quality, ...], kind: str) -> list[str]:
    """Return the measurement conditions as text; `kind` is what the model generates."""
    # The first figure with samples: likelihoods are measured without.
    first = next((figure for figure in figures if figure.seed_start is not None), figures[0])
    text = f"{first.samples:,} samples"
    if first.seed_start is not None:
        text += f" of seeds {first.seed_start} to {first.seed_start + first.samples - 1}"
    if first.truncation is not None:
        text += f", truncation {first.truncation:g}"
    text += f", against {first.reference_samples:,} {kind} of {first.reference}"
    if digests := reference_digests(figures).get(first.reference):
        text += f" (sha256 {digests})"
    text += "."
    classifier = next((f for f in figures if f.metric == get_metric("class_accuracy").key), None)
    # The first metrics of image-to-image models use no feature network.
    network = next((f for f in figures if f.feature_network and f is not classifier), None)
    if network is not None:
        text += f" Features: {network.feature_network}"
        text += f"; resizing: {network.resizing}." if network.resizing else "."
    lines = [text]
    if classifier is not None:
        lines.append(f"Class accuracy by {classifier.feature_network}.")
    return lines


def _output_format(manifest: Manifest) -> str:
    image = manifest.image
    if image is None:
        return manifest.output.summary
    colors = {1: "gray", 3: "RGB", 4: "RGBA"}[image.channels]
    return f"{image.width}×{image.height} {colors}"


def _megabytes(manifest: Manifest, folder: Path) -> float:
    files = [file for graph in manifest.graphs.values() for file, _ in graph.files]
    return sum((folder / file).stat().st_size for file in files) / 1e6


def _training_data(manifest: Manifest) -> str:
    provenance = manifest.provenance
    if isinstance(provenance, TrainingProvenance):
        return f"{provenance.dataset} ({provenance.dataset_license})"
    return f"imported from {provenance.source_file}"
