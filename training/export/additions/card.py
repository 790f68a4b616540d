"""The sections of a model card about additions.

They are between two comments, so that they can be replaced without touching the rest of a card,
which may have been edited. A section of a new kind of addition is one function in `_SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.additions import Direction, InversionFigure, SelectionFigure
from training.latent.inversion.quality import gate_failures

CARD_FILE = "README.md"
_BEGIN = "<!-- additions: written by ganymede -->"
_END = "<!-- end of the additions -->"
# The head of the table with which a card ends.
_TABLE = "| | |"


def addition_lines(manifest: Manifest) -> list[str]:
    """Return the lines of all sections in Markdown, or none if the model has no additions."""
    sections = [lines for section in _SECTIONS if (lines := section(manifest))]
    if not sections:
        return []
    return [_BEGIN, "", *(line for lines in sections for line in [*lines, ""]), _END, ""]


def with_additions(card: str, manifest: Manifest) -> str:
    """Return the text of a card with the sections of `manifest` instead of those that it has.

    Sections are placed before the table with which a card ends, because metrics are appended to it.
    """
    lines = card.splitlines()
    if _BEGIN in lines and _END in lines[lines.index(_BEGIN) :]:
        start = lines.index(_BEGIN)
        end = lines.index(_END, start) + 1
        if lines[end : end + 1] == [""]:
            end += 1
    else:
        tables = [i for i, line in enumerate(lines) if line == _TABLE]
        start = end = tables[-1] if tables else len(lines)
        if not tables and lines and lines[-1]:
            lines.append("")
            start = end = len(lines)
    lines[start:end] = addition_lines(manifest)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def _directions(manifest: Manifest) -> list[str]:
    if manifest.directions is None:
        return []
    items = manifest.directions.items
    lines = [
        "## Directions",
        "",
        "A step of one unit is one standard deviation of the latents. Effect is the change in "
        "image features per unit, drift the change in what should stay; in parentheses are the "
        "means of random directions of the same length.",
        "",
        "| Name | Space | Found by | Effect | Drift |",
        "|---|---|---|---|---|",
        *(_direction_row(item) for item in items),
    ]
    measured = [item.figures for item in items if item.figures]
    if measured:
        networks = ", ".join(sorted({figures.feature_network for figures in measured}))
        drifts = "; ".join(sorted({figures.drift_of for figures in measured}))
        counts = ", ".join(f"{count:,}" for count in sorted({each.samples for each in measured}))
        lines += ["", f"Measured on {counts} samples with {networks}. Drift is {drifts}."]
    for item in items:
        if item.strip:
            lines += ["", f"![images along {item.name}]({item.strip})"]
    return lines


def _direction_row(item: Direction) -> str:
    space: str = item.space
    if item.layers:
        space += f", {'layer' if len(item.layers) == 1 else 'layers'} {layer_ranges(item.layers)}"
    figures = item.figures
    effect = drift = ""
    if figures is not None:
        effect = f"{figures.effect:.3f} ({figures.random_effect:.3f})"
        drift = f"{figures.drift:.3f} ({figures.random_drift:.3f})"
    return f"| `{item.name}` | {space} | {item.method}: {item.description} | {effect} | {drift} |"


def layer_ranges(numbers: Sequence[int]) -> str:
    """Return numbers as ranges: ``0-2, 5``."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _encoder(manifest: Manifest) -> list[str]:
    encoder = manifest.encoder
    if encoder is None:
        return []
    lines = [
        "## Encoder",
        "",
        f"Inverts images to `{manifest.latent_space_name}` in {encoder.passes} passes. Trained on "
        f"{encoder.trained_images:,} of the model's own images.",
    ]
    if failures := gate_failures(encoder.figures):
        lines += ["", f"It does not pass the quality gate: {'; '.join(failures)}."]
    if encoder.figures:
        lines += [
            "",
            "| Metric | Images | Encoder | Mean image | Nearest sample |",
            "|---|---|---|---|---|",
            *(_inversion_row(figure) for figure in encoder.figures),
        ]
    return lines


def _inversion_row(figure: InversionFigure) -> str:
    metric: str = figure.metric
    unit, digits = (" dB", 2) if metric == "PSNR" else ("", 4)
    if figure.feature_network:
        metric += f" ({figure.feature_network})"
    encoder, mean, nearest = (
        f"{value:.{digits}f}{unit}" for value in (figure.value, figure.mean_image, figure.nearest)
    )
    images = f"{figure.count:,} {figure.images}"
    return f"| {metric} | {images} | {encoder} | {mean} | {nearest} of {figure.candidates:,} |"


def _discriminator(manifest: Manifest) -> list[str]:
    discriminator = manifest.discriminator
    if discriminator is None:
        return []
    lines = ["## Discriminator", "", "Scores images, for samples that are selected by `rank`."]
    if discriminator.description:
        lines += ["", f"{discriminator.description}."]
    if discriminator.figures:
        lines += [
            "",
            "| Selection | Kept | KID | Precision | Recall | Samples | Reference |",
            "|---|---|---|---|---|---|---|",
            *(_selection_row(figure) for figure in discriminator.figures),
        ]
    return lines


def _selection_row(figure: SelectionFigure) -> str:
    return (
        f"| {figure.method} | {figure.share:.0%} | {figure.kernel_distance:.5f} "
        f"by {figure.feature_network} | {figure.precision:.1%} | {figure.recall:.1%} "
        f"| {figure.samples:,} of those kept of {figure.candidates:,} "
        f"| {figure.reference} |"
    )


def _trainable(manifest: Manifest) -> list[str]:
    trainable = manifest.trainable
    if trainable is None:
        return []
    start = "the recipe of the model" if trainable.recipe else "the imported networks"
    networks = f" of {', '.join(trainable.networks)}" if trainable.networks else ""
    lines = [
        "## Trainable weights",
        "",
        f"`trainable.safetensors` holds weights{networks} that training continues from, for "
        f"{start}: `ganymede train RECIPE from=MODEL`.",
    ]
    if trainable.description:
        lines += ["", f"{trainable.description}."]
    return lines


_SECTIONS = (_directions, _encoder, _discriminator, _trainable)
