"""The model card: README.md of a model folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.measurements import Quality
from service.runtime.models.parts.provenance import (
    FineTuning,
    ImportProvenance,
    TrainingData,
    TrainingProvenance,
)
from training.data.images import UNKNOWN_LICENSE
from training.data.provenance import license_notes
from training.evaluation.report.formatting import (
    by_condition,
    format_interval,
    format_value,
    is_share,
    metric_title,
    reference_digests,
)
from training.export.additions.card import addition_lines

_SOURCES = {
    "assumed": "assumed",
    "option": "set by the user",
    "configuration": "from the configuration of the training",
    "names": "from the names of the tensors",
}
_COLORS = {1: "gray", 3: "RGB", 4: "RGBA"}


def model_card(
    manifest: Manifest,
    *,
    details: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    preview_text: str = "samples",
    preview_caption: str | None = None,
) -> str:
    """Return the card of a model in Markdown.

    `details` are additional rows of the table, as (name, value). The table is the last part of the
    card, so that metrics can be appended.
    """
    output = manifest.output.summary
    if (image := manifest.image) is not None:
        output = f"{image.width}×{image.height} {_COLORS[image.channels]}"
    lines = [
        f"# {manifest.name}",
        "",
        f"{manifest.summary}. {output[:1].upper()}{output[1:]}, {_origin(manifest)}.",
        "",
        *([f"Good for {manifest.good_for}.", ""] if manifest.good_for else []),
        f"![{preview_text}](preview.webp)",
        "",
    ]
    if preview_caption:
        lines += [preview_caption, ""]
    if isinstance(manifest.provenance, TrainingProvenance):
        notes = [*notes, *license_notes(manifest.provenance.data)]
        if manifest.license == UNKNOWN_LICENSE:
            notes.append("The license of the weights is not known; set license in the recipe.")
    if notes:
        lines += [*(f"- {note}" for note in notes), ""]
    if isinstance(manifest.provenance, ImportProvenance):
        lines += _import_lines(manifest.provenance)
    lines += addition_lines(manifest)
    rows: list[tuple[str, str]] = [("Task", manifest.task)]
    if manifest.latent:
        latent = manifest.latent
        rows.append(("Latent", f"{latent.dimension} values, {latent.distribution}"))
    if manifest.input is not None:
        rows += _input_rows(manifest.input)
    if manifest.classes:
        rows.append(("Classes", ", ".join(manifest.classes)))
    rows += details
    rows += _provenance_rows(manifest)
    rows.append(("License of the weights", manifest.license))
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, *quality_lines(manifest)]) + "\n"


def _import_lines(provenance: ImportProvenance) -> list[str]:
    """Return what the file of an imported model does not determine, and what was left out of it."""
    lines = []
    if provenance.assumptions:
        lines += ["The file does not determine the following:", ""]
        for each in provenance.assumptions:
            origin = _SOURCES[each.source]
            way = f"; `{each.flag}` changes it" if each.flag else ""
            lines.append(f"- {each.subject}: {each.value} ({origin}{way})")
        lines.append("")
    if provenance.left_out:
        lines += ["Left out of the file:", "", *(f"- {each}" for each in provenance.left_out), ""]
    return lines


def _origin(manifest: Manifest) -> str:
    if isinstance(manifest.provenance, TrainingProvenance):
        return f"trained with the recipe `{manifest.provenance.recipe}`"
    return f"imported from `{manifest.provenance.source_file}`"


def _input_rows(image_input: ImageInput) -> list[tuple[str, str]]:
    height, width = image_input.size
    size = f"{width}×{height}"
    size = f"{size} only" if image_input.fixed else f"any size; trained at {size}"
    rows = [("Input", f"{_COLORS[image_input.channels]}, {size}")]
    if image_input.factor > 1:
        rows.append(("Output", f"{image_input.factor} times the height and width"))
    if image_input.directions:
        rows.append(("Directions", ", ".join(image_input.directions)))
    return rows


def _provenance_rows(manifest: Manifest) -> list[tuple[str, str]]:
    provenance = manifest.provenance
    if isinstance(provenance, ImportProvenance):
        return [
            ("Source", f"`{provenance.source_file}`, SHA-256 `{provenance.source_sha256}`"),
            ("Imported by", f"Ganymede {provenance.importer_version}"),
        ]
    rows = manifest.output.kind
    return [
        *_data_rows(provenance, rows),
        *(_fine_tuning_rows(provenance.fine_tuned) if provenance.fine_tuned else []),
        *(
            ("Pretrained network", f"{network}; it judged the images in training")
            for network in provenance.pretrained
        ),
        ("Training", f"{provenance.images:,} {rows} in {provenance.turns:,} steps"),
        ("Training time", f"{_duration(provenance.seconds)} on {provenance.device}"),
        *(("Changed during the run", change) for change in provenance.overrides),
        ("Seed", str(provenance.seed)),
        ("Code", provenance.code_revision),
    ]


def _data_rows(provenance: TrainingProvenance, rows: str) -> list[tuple[str, str]]:
    if not provenance.data:
        return [("Training data", f"{provenance.dataset} ({provenance.dataset_license})")]
    titles = {"data": "Training data", "source": "Input images"}
    return [
        (
            titles[record.role],
            f"{record.title} ({_license_text(record.license)}), {record.images:,} {rows}, "
            f"fingerprint `{record.fingerprint}`{_preparation(record)}",
        )
        for record in provenance.data
    ]


def _preparation(record: TrainingData) -> str:
    return "" if record.preparation is None else f"; {record.preparation}"


def _fine_tuning_rows(record: FineTuning) -> list[tuple[str, str]]:
    images = f", trained on {record.images:,} images" if record.images else ""
    taken = "; ".join(
        f"{each.network}: {each.taken} tensors, {each.share:.1%} of its values"
        for each in record.networks
    )
    return [
        (
            "Fine-tuned from",
            f"{record.source} ({_license_text(record.license)}){images}, SHA-256 "
            f"`{record.sha256}`; {taken}",
        )
    ]


def _license_text(license_name: str) -> str:
    return "license not known" if license_name == UNKNOWN_LICENSE else license_name


def quality_lines(manifest: Manifest) -> list[str]:
    """Return the table rows of the metrics and of their measurement conditions."""
    if manifest.text is not None:
        return _text_lines(manifest.quality)
    lines = [
        f"| {_capitalized(metric_title(f.metric))} | {_figure_text(f, manifest.output.kind)} |"
        for f in manifest.quality
    ]
    if basis := _basis(manifest.quality):
        lines.append(f"| Measured on | {basis} |")
    return lines


def _text_lines(figures: Sequence[Quality]) -> list[str]:
    """Return a row for each generator and temperature, then the real texts and the conditions."""
    if not figures:
        return []
    groups = by_condition(figures)
    lines = [
        f"| {_capitalized(condition)} | {_values((f.metric, f.value) for f in group)} |"
        for condition, group in groups.items()
    ]
    first = next(iter(groups.values()))
    real = _values((f.metric, f.real) for f in first if f.real is not None)
    sizes = f"{first[-1].samples:,} samples against {first[-1].reference_samples:,} held-out texts"
    return [*lines, f"| Training texts | {real} |", f"| Measured on | {sizes}; {_basis(figures)} |"]


def _values(values: Iterable[tuple[str, float | None]]) -> str:
    """Return the names of metrics, without their condition, and their values."""
    return ", ".join(
        f"{metric_title(key.partition(', ')[0])} {format_value(key, value)}"
        for key, value in values
    )


def _basis(figures: Sequence[Quality]) -> str:
    """Return the measurement conditions: seeds, truncation, references and resizing."""
    parts = []
    if seeded := [figure for figure in figures if figure.seed_start is not None]:
        start = seeded[0].seed_start or 0
        last = start + max(figure.samples for figure in seeded) - 1
        parts.append(f"seeds {start} to {last}")
    truncation = next((f.truncation for f in figures if f.truncation is not None), None)
    if truncation is not None:
        parts.append(f"truncation {truncation:g}")
    parts += [f"{name} (sha256 {digests})" for name, digests in reference_digests(figures).items()]
    if resizing := next((f.resizing for f in figures if f.feature_network and f.resizing), None):
        parts.append(f"resized by {resizing} for the feature network")
    return "; ".join(parts)


def _capitalized(metric: str) -> str:
    """Return the metric with a capital first letter."""
    return metric[:1].upper() + metric[1:]


def _figure_text(figure: Quality, rows: str) -> str:
    """Return a metric with its interval, sample count, baselines and reference."""
    value = format_value(figure.metric, figure.value)
    if figure.low is not None and figure.high is not None:
        value += f" ({format_interval(figure)})"
    value += f" {'of' if is_share(figure.metric) else 'on'} {figure.samples:,} samples"
    if figure.real is not None:
        value += f"; real {rows}: {format_value(figure.metric, figure.real)}"
    if figure.baseline is not None:
        value += f"; {figure.baseline_name}: {format_value(figure.metric, figure.baseline)}"
    network = f", by {figure.feature_network}" if figure.feature_network else ""
    return f"{value}{network} ({figure.reference}: {figure.reference_samples:,} {rows})"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"
