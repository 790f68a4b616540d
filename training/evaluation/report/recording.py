"""Figures written where a model's users look: into its manifest, and on its card."""

from __future__ import annotations

from pathlib import Path

from service.runtime.files import replacing
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, Quality, read_manifest
from training.evaluation.errors import QualityError
from training.evaluation.results import Evaluation
from training.export.model_card import quality_lines

CARD_FILE = "README.md"


def record(folder: Path, evaluation: Evaluation) -> Manifest:
    """Put the figures of `evaluation` in the place of all that the model in `folder` had.

    Raises what `record_figures` raises.
    """
    return record_figures(folder, evaluation.digest, evaluation.figures)


def record_figures(folder: Path, digest: str | None, figures: tuple[Quality, ...]) -> Manifest:
    """Put `figures` of the model of that digest in the place of all that the one in `folder` had.

    What the manifest's digest covers stays as it is. Raises ManifestError, and QualityError when
    the folder holds another model than the one that was measured.
    """
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise QualityError(f"{folder} holds another model than the one that was measured")
    old = set(quality_lines(manifest))
    measured = manifest.model_copy(update={"quality": figures})
    with replacing(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(measured.to_json())
    card = folder / CARD_FILE
    if card.exists():
        lines = [line for line in card.read_text().splitlines() if line not in old]
        with replacing(card) as temporary:
            temporary.write_text("\n".join([*_up_to_table(lines), *quality_lines(measured)]) + "\n")
    return measured


def _up_to_table(lines: list[str]) -> list[str]:
    """Drop empty lines at the end: figures go on the card's last table."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
