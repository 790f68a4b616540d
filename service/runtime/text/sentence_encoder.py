"""Sentence embeddings: the text encoder of a model folder, run by ONNX Runtime.

An embedding depends only on its text: each text is run alone, so that no padding takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.runtime.errors import UserError
from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.graphs import TEXT_ENCODER
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from service.runtime.text.prompts import PromptTokenizer, read_tokenizer, token_feeds

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=1)


class TextEncoderError(UserError):
    """A text encoder cannot be loaded. The message is one line and says how to fix it."""


class Sentences(NamedTuple):
    """Embeddings ``[N, d] float32``, and the number of tokens of each text before truncation."""

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]


class SentenceEncoder:
    """Maps texts to embeddings with a tokenizer and a graph.

    The graph maps ``token_ids [N, L] int64`` and ``token_mask [N, L] float32`` to
    ``text [N, d] float32``. Longer texts are truncated to `max_tokens`. A text without tokens, such
    as the empty one, has the embedding zero.
    """

    def __init__(self, tokenizer: PromptTokenizer, graph: Path, dimension: int) -> None:
        """Load the graph. Raises GraphError."""
        self._tokenizer = tokenizer
        self._session = Session(graph, Provider.CPU, _PLAN)
        self.dimension = dimension

    @property
    def max_tokens(self) -> int:
        """The number of tokens that are kept of a longer text."""
        return self._tokenizer.max_tokens

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Return the number of tokens of each text before truncation."""
        return tuple(prompt.length for prompt in self._tokenizer(texts))

    def encode(self, texts: Sequence[str]) -> Sentences:
        """Return the embeddings of texts."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        prompts = self._tokenizer(texts)
        for row, prompt in enumerate(prompts):
            if prompt.tokens:
                vectors[row] = self._session.run(token_feeds(prompt))["text"][0]
        return Sentences(vectors, tuple(prompt.length for prompt in prompts))


def open_sentence_encoder(folder: Path) -> SentenceEncoder:
    """Open the text encoder of a model folder. Raises TextEncoderError, ManifestError."""
    manifest = read_manifest(folder)
    spec = manifest.text_encoder
    if spec is None:
        raise TextEncoderError(f"{folder} is not a text encoder: its task is {manifest.task}")
    graph = folder / manifest.graphs[TEXT_ENCODER].file
    return SentenceEncoder(read_tokenizer(folder, spec), graph, spec.dimension)
