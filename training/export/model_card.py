"""The model card: what a person wants to know before using a model."""

from __future__ import annotations

from collections.abc import Sequence

from service.runtime.models.manifest import Manifest, Quality, TrainingProvenance
from training.evaluation.report.figure_text import SHARES, digests_of, said
from training.recipe.schema import Recipe


def model_card(manifest: Manifest, recipe: Recipe) -> str:
    """Return the card of a model trained by `recipe`, in Markdown."""
    assert isinstance(manifest.provenance, TrainingProvenance)  # noqa: S101 - for the type checker
    made, image, latent = manifest.provenance, manifest.image, manifest.latent
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}[image.channels]
    lines = [
        f"# {manifest.name}",
        "",
        f"{manifest.summary}. {image.width}×{image.height} {kind}, made by the recipe "
        f"`{made.recipe}`.",
        "",
        *_preview(manifest),
        "",
        "| | |",
        "|---|---|",
        f"| Task | {manifest.task} |",
    ]
    if latent:
        lines.append(f"| Latent | {latent.dimension} values, {latent.distribution} |")
    if (given := manifest.input) is not None:
        channels = {1: "grey", 3: "RGB", 4: "RGBA"}[given.channels]
        sides = f"{given.side} pixels a side" if given.fixed else "any size"
        lines.append(f"| Goes in | {channels}, {sides}; trained at {given.side} |")
        if given.factor > 1:
            lines.append(f"| Comes out | {given.factor} times the side |")
        if given.directions:
            lines.append(f"| Directions | {', '.join(given.directions)} |")
    if manifest.classes:
        lines.append(f"| Classes | {', '.join(manifest.classes)} |")
    lines += [
        f"| Training data | {made.dataset} ({made.dataset_license}) |",
        f"| Seen | {made.images:,} images in {made.turns:,} turns of {recipe.train.batch} |",
        f"| Spent | {_hours(made.seconds)} on {made.device} |",
        f"| Seed | {made.seed} |",
        f"| Code | {made.code_revision} |",
        f"| Licence of the weights | {manifest.license} |",
    ]
    lines += quality_lines(manifest)
    return "\n".join(lines) + "\n"


def _preview(manifest: Manifest) -> list[str]:
    given = manifest.input
    if given is None:
        return [
            "![samples of seeds 0 to 63](preview.webp)",
            "",
            "The preview shows seeds 0 to 63, none left out.",
        ]
    shown = "what goes in, what comes out, and what should have"
    if given.directions:
        there, back = given.directions
        shown = f"what goes in and what comes out, {there}, and the same of {back}"
    return [
        f"![{shown}](preview.webp)",
        "",
        f"Side by side: {shown}; pictures that it was not trained on where some were held out, "
        "chosen by lot.",
    ]


def quality_lines(manifest: Manifest) -> list[str]:
    """Return the lines of the card's table that hold the figures, and what all of them rest on."""
    lines = [f"| {_capitalised(figure.metric)} | {_told(figure)} |" for figure in manifest.quality]
    if basis := _basis(manifest.quality):
        lines.append(f"| Measured on | {basis} |")
    return lines


def _basis(figures: Sequence[Quality]) -> str:
    """Return seeds, truncation, references and resizing: figures compare where these are alike."""
    parts = []
    if seeded := [figure for figure in figures if figure.seed_start is not None]:
        start = seeded[0].seed_start or 0
        last = start + max(figure.samples for figure in seeded) - 1
        parts.append(f"seeds {start} to {last}")
    truncation = next((f.truncation for f in figures if f.truncation is not None), None)
    if truncation is not None:
        parts.append(f"truncation {truncation:g}")
    parts += [f"{name} (sha256 {digests})" for name, digests in digests_of(figures).items()]
    if resizing := next((f.resizing for f in figures if f.feature_network and f.resizing), None):
        parts.append(f"for features resized by {resizing}")
    return "; ".join(parts)


def _capitalised(metric: str) -> str:
    """Begin with a capital, and leave KID and the like as they are."""
    return metric[:1].upper() + metric[1:]


def _told(figure: Quality) -> str:
    """Return a figure with what it takes to read it."""
    value = said(figure.metric, figure.value)
    if figure.low is not None and figure.high is not None:
        value += f" ({said(figure.metric, figure.low)} to {said(figure.metric, figure.high)})"
    value += f" {'of' if figure.metric in SHARES else 'on'} {figure.samples:,} samples"
    if figure.real is not None:
        value += f"; of real pictures {said(figure.metric, figure.real)}"
    if figure.baseline is not None:
        value += f"; of {figure.baseline_name} {said(figure.metric, figure.baseline)}"
    network = f", by {figure.feature_network}" if figure.feature_network else ""
    return f"{value}{network} ({figure.reference}: {figure.reference_samples:,} pictures)"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"
