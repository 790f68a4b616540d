"""The model card: what a person wants to know before using a model."""

from __future__ import annotations

from service.runtime.manifest import Manifest, TrainingProvenance
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
    for figure in manifest.quality:
        lines.append(f"| {figure.metric} | {figure.value:.3f} |")
    return "\n".join(lines) + "\n"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"
