"""Formats metrics from a manifest: names, directions, values and references."""

from __future__ import annotations

from collections.abc import Sequence

from service.runtime.models.parts.measurements import Quality
from training.evaluation.metrics import find_metric


def metric_title(key: str) -> str:
    """Return the human-readable name of a metric, with its unit, by its key in a manifest.

    A name that contains the feature network, such as ``KID-EffNetLite0``, is returned unchanged.
    """
    metric = find_metric(key)
    if metric is None or metric.names_network:
        return key
    direction = key.partition(", ")[2]
    unit = f" ({metric.unit})" if metric.unit == "dB" else ""
    return f"{metric.title}{unit}, {direction}" if direction else f"{metric.title}{unit}"


def direction_arrow(key: str) -> str:
    """Return ``↓`` if lower is better, ``↑`` if higher is better, otherwise an empty string."""
    metric = find_metric(key)
    return "" if metric is None else metric.arrow


def is_share(key: str) -> bool:
    """Return True if a metric is a share of images, which is displayed in percent."""
    metric = find_metric(key)
    return metric is not None and metric.unit == "share"


def by_condition(figures: Sequence[Quality]) -> dict[str, list[Quality]]:
    """Return the figures by what follows the name of their metric, such as a temperature."""
    groups: dict[str, list[Quality]] = {}
    for figure in figures:
        groups.setdefault(figure.metric.partition(", ")[2], []).append(figure)
    return groups


def format_value(key: str, value: float | None) -> str:
    """Return a value with its significant digits, or an empty string for None."""
    metric = find_metric(key)
    if metric is not None:
        return metric.format(value)
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def format_interval(figure: Quality) -> str:
    """Return the confidence interval of a metric, or an empty string."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (format_value(figure.metric, end) for end in (figure.low, figure.high))
    return f"{low} to {high}"


def format_real(figure: Quality) -> str:
    """Return the value of real images, with their number if it differs from the sample count."""
    text = format_value(figure.metric, figure.real)
    if text and figure.real_samples not in (None, figure.samples):
        text += f" ({figure.real_samples:,})"
    return text


def reference_digests(figures: Sequence[Quality]) -> dict[str, str]:
    """Return the digests of the reference images, by the name of the reference.

    A model with two directions has two sets of targets in one split. In this case, each digest is
    followed by its direction: ``… photo_to_sketch and … sketch_to_photo``.
    """
    by_reference: dict[str, dict[str, str]] = {}
    for figure in figures:
        if figure.reference_sha256:
            directions = by_reference.setdefault(figure.reference, {})
            directions.setdefault(figure.reference_sha256[:12], figure.metric.partition(", ")[2])
    return {
        reference: next(iter(digests))
        if len(digests) == 1
        else " and ".join(f"{digest} {direction}".strip() for digest, direction in digests.items())
        for reference, digests in by_reference.items()
    }
