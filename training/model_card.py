"""The model card: what a person wants to know before using a model."""

from __future__ import annotations

from service.runtime.manifest import Manifest, Quality, TrainingProvenance
from training.quality.obedience import CLASS_OBEDIENCE
from training.recipe import Recipe

# Figures that are shares, and said in percent.
_SHARES = {CLASS_OBEDIENCE}


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
    lines += [f"| {figure.metric.capitalize()} | {_told(figure)} |" for figure in manifest.quality]
    return "\n".join(lines) + "\n"


def _told(figure: Quality) -> str:
    """Return a figure with what it takes to read it."""
    if figure.metric in _SHARES:
        value = f"{figure.value:.1%} of {figure.samples:,} samples"
    else:
        value = f"{figure.value:.3f} on {figure.samples:,} samples"
    network = f", by {figure.feature_network}" if figure.feature_network else ""
    return f"{value}{network} ({figure.reference}: {figure.reference_samples:,} pictures)"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"
