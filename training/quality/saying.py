"""How one figure is written, and read."""

from __future__ import annotations

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
