"""What the trainer needs to know about the decoded training data of any kind."""

from __future__ import annotations

from typing import Protocol


class Dataset(Protocol):
    """Decoded training data: images, or another kind of examples."""

    @property
    def kind(self) -> str:
        """What the examples are, in plural, such as "images"."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about splits and classes, one line each."""

    @property
    def preparation(self) -> str | None:
        """How the examples were changed to fit, if that belongs in the record of the data."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; empty without classes."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """The examples that cannot be used, each with the reason."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the examples, which does not depend on the path of the data."""

    @property
    def decoded_bytes(self) -> int:
        """The bytes of the decoded examples."""

    def __len__(self) -> int: ...

    def summary(self) -> str:
        """Return the data in one line; "" if the number of examples says it all."""

    def warnings(self) -> list[str]:
        """Return what a user should know about the data, one line each."""
