"""Validation of generators of text on held-out sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.data.text.corpus import TextData
from training.evaluation.errors import QualityError
from training.recipe.schema import Recipe


class TextValidation:
    """Measures the likelihood of held-out sequences."""

    def __init__(self, recipe: Recipe, data: TextData) -> None:
        """Raises QualityError without held-out sequences."""
        self.title = f"{recipe.data.dataset_title}, split test"
        if not len(data.held_out):
            raise QualityError(f"evaluate: {self.title} has no sequences")

    def measure(self, generate: Callable[..., Any]) -> dict[str, float]:
        """Return the metrics that `generate` measures."""
        return dict(generate())
