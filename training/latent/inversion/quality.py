"""The quality gate of encoders: their margin over two baselines."""

from __future__ import annotations

from collections.abc import Sequence

from service.runtime.models.parts.additions import InversionFigure

# What the figures of the model's own images begin with.
OWN_IMAGES = "own images"
# An encoder must be better than both baselines by this many dB, and by this share of the distance.
MIN_MARGIN_DB = 2.0
MIN_MARGIN_SHARE = 0.1


def gate_failures(figures: Sequence[InversionFigure]) -> list[str]:
    """Return why an encoder is not clearly better than the baselines on the model's own images.

    The baselines are the mean image and the nearest of many samples. An empty list passes.
    """
    failures = []
    for figure in figures:
        if not figure.images.startswith(OWN_IMAGES):
            continue
        if figure.metric == "PSNR":
            baseline = max(figure.mean_image, figure.nearest)
            if figure.value < baseline + MIN_MARGIN_DB:
                failures.append(
                    f"PSNR is {figure.value:.2f} dB; at least {baseline + MIN_MARGIN_DB:.2f} is "
                    f"expected, {MIN_MARGIN_DB:g} dB more than the better baseline"
                )
        else:
            baseline = min(figure.mean_image, figure.nearest)
            if figure.value > baseline * (1 - MIN_MARGIN_SHARE):
                failures.append(
                    f"the feature distance is {figure.value:.4f}; at most "
                    f"{baseline * (1 - MIN_MARGIN_SHARE):.4f} is expected, {MIN_MARGIN_SHARE:.0%} "
                    "less than the better baseline"
                )
    return failures
