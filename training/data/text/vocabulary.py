"""The units of text and their numbers: characters or words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["character", "word"]

# One token stands for both ends of a sequence: it is fed first, and generating it ends the text.
# No text contains it, because words contain no spaces and characters are single.
END = 0
END_NAME = "<end of text>"

_SEPARATORS = {"character": "", "word": " "}


@dataclass(frozen=True)
class Vocabulary:
    """The units by token; token 0 is the end of a text."""

    unit: Unit
    units: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.units)

    @classmethod
    def of(
        cls, lines: Iterable[Sequence[str]], unit: Unit, limit: int, min_count: int
    ) -> Vocabulary:
        """Return the most frequent units of `lines`: at most `limit` tokens with the end.

        Units that occur less often than `min_count` are left out. Units of equal frequency are in
        the order of their code points.
        """
        counts = Counter(each for line in lines for each in line)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [each for each, count in ranked if count >= min_count]
        return cls(unit, (END_NAME, *kept[: limit - 1]))

    def join(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first end."""
        units = []
        for token in tokens:
            if token == END:
                break
            units.append(self.units[token])
        return _SEPARATORS[self.unit].join(units)


def split(line: str, unit: Unit) -> list[str]:
    """Split a line into its units; words are separated by white space."""
    return list(line) if unit == "character" else line.split()
