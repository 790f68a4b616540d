"""What the main graph of a model returns, per row: the parts of the manifest that describe it.

Adding a kind of output adds a class here. The parts state name, type and shape of the main tensor
and the cost of a row, so that loading, warm-up, plans, scheduler and rate limits need no changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from service.runtime.models.parts.part import SHA256, Part, Positive

# The files of the outputs in a model folder.
TOKENIZER_FILE: Literal["tokenizer.json"] = "tokenizer.json"
VOCABULARY_FILE: Literal["vocabulary.json"] = "vocabulary.json"


class OutputSpec(Part, ABC):
    """A kind of output. `tensor` is the name of the main output of the graph ``[N, *row]``.

    `kind` is what a model generates, and was trained on, in plural.
    """

    kind: ClassVar[str]
    tensor: ClassVar[str]
    dtype: ClassVar[np.dtype[Any]]

    @property
    @abstractmethod
    def row(self) -> tuple[int, ...]:
        """The shape of one row of the tensor."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """A few words about the output, for tables."""

    @property
    def cost(self) -> int:
        """The cost of a row, in the unit in which the queue and rate limits are bounded.

        The unit is one pixel, one audio sample, or one number of any other output.
        """
        return int(np.prod(self.row))


class ImageSpec(OutputSpec):
    """The output images, in pixels. 1 channel is gray, 3 are RGB, 4 are RGBA."""

    kind: ClassVar[str] = "images"
    tensor: ClassVar[str] = "pixels"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    height: Positive
    width: Positive
    channels: Literal[1, 3, 4]

    @property
    def pixels(self) -> int:
        """Pixels per image."""
        return self.height * self.width

    @property
    def row(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    @property
    def summary(self) -> str:
        """Width × height × channels."""
        return f"{self.width}×{self.height}×{self.channels}"

    @property
    def cost(self) -> int:
        """The pixels of an image."""
        return self.pixels


class AudioSpec(OutputSpec):
    """The output audio: one channel of `samples` samples at `sample_rate` Hz."""

    kind: ClassVar[str] = "sounds"
    tensor: ClassVar[str] = "samples"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int16)

    # The maximum of FLAC.
    sample_rate: Annotated[int, Field(gt=0, le=655_350)]
    samples: Positive

    @property
    def row(self) -> tuple[int]:
        """The samples of one channel."""
        return (self.samples,)

    @property
    def summary(self) -> str:
        """Duration and sample rate."""
        return f"{self.seconds:.3g} s, {self.sample_rate:,} Hz"

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.samples / self.sample_rate


class VocabularyFile(Part):
    """The vocabulary: a JSON list of strings, one per token."""

    file: Literal["vocabulary.json"] = VOCABULARY_FILE
    sha256: SHA256


class TokenizerFile(Part):
    """A tokenizer in the format of the library `tokenizers`."""

    file: Literal["tokenizer.json"] = TOKENIZER_FILE
    sha256: SHA256


class TextSpec(OutputSpec):
    """The output text, generated token by token by the graph `step`.

    A step takes ``token [N] int64`` and ``state [N, state] float32``, and returns
    ``logits [N, size] float32`` of the next token and the ``new_state``. The first token fed is
    `start`, with a state of zeros. A text ends at the token `end`, or after `max_length` tokens.
    """

    kind: ClassVar[str] = "texts"
    tensor: ClassVar[str] = "logits"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    vocabulary: VocabularyFile
    unit: Literal["character", "word"]
    # The number of tokens in the vocabulary.
    size: Positive
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]
    max_length: Positive
    state: Positive

    @property
    def row(self) -> tuple[int]:
        """The logits of one step."""
        return (self.size,)

    @property
    def summary(self) -> str:
        """Maximum length and unit."""
        return f"text, at most {self.max_length} {self.unit}s"


class TextEncoder(OutputSpec):
    """A text encoder: a tokenizer, and the graph `text_encoder`.

    The graph takes ``token_ids [N, L] int64`` and ``token_mask [N, L] float32`` (1 for a token,
    0 for padding) and returns ``text [N, dimension] float32``. Longer texts are truncated to
    `max_tokens`. A text without tokens is the zero vector.
    """

    kind: ClassVar[str] = "vectors"
    tensor: ClassVar[str] = "text"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    tokenizer: TokenizerFile
    dimension: Positive
    max_tokens: Positive

    @property
    def row(self) -> tuple[int]:
        """The vector of a text."""
        return (self.dimension,)

    @property
    def summary(self) -> str:
        """The dimension of the vectors."""
        return f"{self.dimension} numbers"
