"""Style layers with weights, and their form in the parameters of images."""

from __future__ import annotations

from collections.abc import Mapping

# Weights by layer index.
LayerWeights = Mapping[int, float]


def layers_parameter(layers: LayerWeights) -> list[int] | dict[str, float]:
    """Return the layers as a list if all weights are 1, else with their weights."""
    if all(weight == 1 for weight in layers.values()):
        return list(layers)
    return {str(layer): weight for layer, weight in layers.items()}


def layers_from_parameter(layers: list[int] | Mapping[str, float]) -> dict[int, float]:
    """Parse the output of `layers_parameter`."""
    weights = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    return {int(layer): float(weight) for layer, weight in weights.items()}
