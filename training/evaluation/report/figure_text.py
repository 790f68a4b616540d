"""How one figure is written, and read."""

from __future__ import annotations

from collections.abc import Sequence

from service.runtime.models.manifest import Quality

# Figures that are shares, and said in percent.
SHARES = (
    "precision",
    "recall",
    "coverage",
    "duplicates",
    "memorised",
    "class obedience",
)
# How a figure is read; what is in neither is best near that of real pictures.
_LESS = (
    "KID",
    "FD",
    "FID",
    "intra-class",
    "duplicates",
    "memorised",
    "path length",
    "LPIPS",
    "feature distance",
    "error",
)
_MORE = ("precision", "recall", "density", "coverage", "class obedience", "IS", "PSNR", "SSIM")


def direction(metric: str) -> str:
    """Return ↓ where less is better, ↑ where more is, and nothing where neither."""
    if metric.startswith(_LESS):
        return "↓"
    return "↑" if metric.startswith(_MORE) else ""


def said(metric: str, value: float | None) -> str:
    """Return a value with as many digits as mean something."""
    if value is None:
        return ""
    if metric in SHARES:
        return f"{value:.1%}"
    if "KID" in metric:
        return f"{value:.5f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def digests_of(figures: Sequence[Quality]) -> dict[str, str]:
    """Return by reference the digests of the pictures that figures were measured against.

    A model of two directions has true pictures of each in one split: they are told apart by what
    stands behind the comma of a figure's name.
    """
    found: dict[str, dict[str, str]] = {}
    for figure in figures:
        if figure.reference_sha256:
            of_direction = found.setdefault(figure.reference, {})
            of_direction.setdefault(figure.reference_sha256[:12], figure.metric.partition(", ")[2])
    return {
        reference: next(iter(digests))
        if len(digests) == 1
        else " and ".join(f"{digest} {direction}".strip() for digest, direction in digests.items())
        for reference, digests in found.items()
    }
