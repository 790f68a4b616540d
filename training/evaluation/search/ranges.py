"""The ranges in which a recipe says that its own values may be searched."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic import Field, model_validator

from training.recipe.options import Options

Value = bool | int | float | str


class SearchRange(Options):
    """From `low` to `high`, in whole numbers where both are whole; or one of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    # Equal steps multiply: what learning rates want.
    log: bool = False
    choices: tuple[Value, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _is_a_range(self) -> SearchRange:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices go without low, high and log")
            if len(self.choices) < 2:
                raise ValueError("one choice leaves nothing to search")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give low and a larger high, or choices")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values at its ends, or all choices: where they are valid, so is what lies between."""
        if self.choices:
            return self.choices
        assert self.low is not None  # noqa: S101 - the validator sees to it
        assert self.high is not None  # noqa: S101
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether a value is one that the search could come to."""
        if self.choices:
            return value in self.choices
        low, high = self.ends
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high


def as_yaml(value: Value) -> str:
    """Write a value so that YAML reads it back as what it is; `1e-05` would be text there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    return str(value) if isinstance(value, int) else f"'{value.replace(chr(39), chr(39) * 2)}'"
