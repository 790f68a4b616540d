"""The model card: what a person wants to know before using a model."""

from __future__ import annotations

from service.runtime.manifest import Manifest, Quality, TrainingProvenance
from training.quality.saying import SHARES, said
from training.recipe import Recipe


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
        "![samples of seeds 0 to 63](preview.webp)",
        "",
        "The preview shows seeds 0 to 63, none left out.",
        "",
        "| | |",
        "|---|---|",
        f"| Task | {manifest.task} |",
    ]
    if latent:
        lines.append(f"| Latent | {latent.dimension} values, {latent.distribution} |")
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


def quality_lines(manifest: Manifest) -> list[str]:
    """Return the lines of the card's table that hold the figures of quality."""
    return [f"| {_capitalised(figure.metric)} | {_told(figure)} |" for figure in manifest.quality]


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
    network = f", by {figure.feature_network}" if figure.feature_network else ""
    return f"{value}{network} ({figure.reference}: {figure.reference_samples:,} pictures)"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"
