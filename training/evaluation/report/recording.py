"""Writes metrics to a model's manifest and model card."""

from __future__ import annotations

from pathlib import Path

from service.runtime.files import replacing
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, read_manifest
from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.export.model_card import quality_lines

CARD_FILE = "README.md"
# The row before the metrics.
_LICENSE_ROWS = ("| Licence of the weights |", "| License of the weights |")


def record_figures(folder: Path, digest: str | None, figures: tuple[Quality, ...]) -> Manifest:
    """Replace the metrics in the manifest and the card of the model in `folder`.

    Returns the new manifest. The digest of the model does not change, because it does not cover
    metrics. Raises ManifestError, and QualityError if the model in the folder does not have the
    digest `digest`.
    """
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise QualityError(f"{folder} does not contain the model that was measured")
    old = set(quality_lines(manifest))
    measured = manifest.model_copy(update={"quality": figures})
    with replacing(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(measured.to_json())
    card = folder / CARD_FILE
    if card.exists():
        # The metrics are the last rows of the table at the end of the card.
        lines = _without_metrics(card.read_text().splitlines(), old)
        text = "\n".join([*lines, *quality_lines(measured)])
        with replacing(card) as temporary:
            temporary.write_text(text + "\n")
    return measured


def _without_metrics(lines: list[str], rows: set[str]) -> list[str]:
    """Return the lines of a card without the rows of metrics.

    Removes `rows`, and everything after the row of the license, because cards from other versions
    can contain differently worded rows.
    """
    licenses = [i for i, line in enumerate(lines) if line.startswith(_LICENSE_ROWS)]
    if licenses:
        lines = lines[: licenses[-1] + 1]
    lines = [line for line in lines if line not in rows]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
