"""Prompts: their tokens, and the inputs of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import ManifestError
from service.runtime.models.parts.outputs import TextEncoder
from service.runtime.text.vocabulary import read_checked

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A prompt with its tokens, of which a long prompt keeps only the first.

    `length` is the number of tokens before that.
    """

    text: str
    tokens: tuple[int, ...]
    length: int

    @property
    def is_truncated(self) -> bool:
        """Whether the prompt has more tokens than the encoder takes."""
        return self.length > len(self.tokens)


class PromptTokenizer:
    """Splits prompts into the tokens of a text encoder. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> list[Prompt]:
        """Return the prompts with these texts. No special tokens are added."""
        # Lone surrogates, which JSON can express, cannot be encoded as UTF-8.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        encoded = self._tokenizer.encode_batch(clean, add_special_tokens=False)
        return [
            # Some normalizers add a token to an empty text.
            Prompt(text, tuple(each.ids[: self.max_tokens]), len(each.ids))
            if text
            else Prompt(text, (), 0)
            for text, each in zip(texts, encoded, strict=True)
        ]


@lru_cache(maxsize=16)
def read_tokenizer(folder: Path, spec: TextEncoder) -> PromptTokenizer:
    """Read the tokenizer in the folder of a text encoder. Raises ManifestError."""
    # Imported here: commands that read no prompt start faster.
    from tokenizers import Tokenizer  # noqa: PLC0415

    data = read_checked(folder / spec.tokenizer.file, spec.tokenizer.sha256)
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())
        raise ManifestError(f"{spec.tokenizer.file} is not a tokenizer: {reason}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return PromptTokenizer(tokenizer, spec.max_tokens)


def token_feeds(prompt: Prompt) -> dict[str, NDArray[Any]]:
    """Return the inputs of a text encoder for one prompt, without padding."""
    return {
        "token_ids": np.array([prompt.tokens], np.int64),
        "token_mask": np.ones((1, len(prompt.tokens)), np.float32),
    }
