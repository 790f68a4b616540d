"""The search ranges that a recipe declares."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic import Field, model_validator

from training.recipe.options import Options

Value = bool | int | float | str


class SearchRange(Options):
    """A range from `low` to `high` (of integers if both are integers), or a set of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    # Search on a logarithmic scale, as usual for learning rates.
    log: bool = False
    choices: tuple[Value, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _is_a_range(self) -> SearchRange:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices cannot be combined with low, high or log")
            if len(self.choices) < 2:
                raise ValueError("a search needs at least two choices")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("expected either choices, or low and high with low < high")
        if self.log and self.low <= 0:
            raise ValueError("log requires low > 0")
        return self

    @property
    def extremes(self) -> tuple[Value, ...]:
        """The limits, or all choices. If these are valid in a recipe, so is every value between."""
        if self.choices:
            return self.choices
        assert self.low is not None  # noqa: S101 - ensured by the validator
        assert self.high is not None  # noqa: S101
        return self.low, self.high

    def contains(self, value: Any) -> bool:
        """Whether `value` is in the range or among the choices."""
        if self.choices:
            return value in self.choices
        low, high = self.extremes
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high


def as_yaml(value: Value) -> str:
    """Return a value as YAML, with floats in decimal notation: YAML parses ``1e-05`` as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    return str(value) if isinstance(value, int) else f"'{value.replace(chr(39), chr(39) * 2)}'"


def short_text(value: Value) -> str:
    """Return a human-readable value; numbers have three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
