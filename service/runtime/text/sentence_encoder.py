"""Sentence embeddings: the text encoder of a model folder, run by ONNX Runtime.

An embedding depends only on its text: each text is run alone, so that no padding takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.runtime.errors import UserError
from service.runtime.models.manifest import TEXT_ENCODER, read_manifest
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session

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

    def __init__(self, tokenizer: Path, graph: Path, dimension: int, max_tokens: int) -> None:
        """Load both files. Raises TextEncoderError, GraphError."""
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # tokenizers raises bare exceptions
            reason = " ".join(str(error).split())
            raise TextEncoderError(f"{tokenizer} is not a tokenizer: {reason}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._session = Session(graph, Provider.CPU, _PLAN)
        self.dimension, self.max_tokens = dimension, max_tokens

    def encode(self, texts: Sequence[str]) -> Sentences:
        """Return the embeddings of texts."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        tokens = []
        # Lone surrogates, which JSON can express, cannot be encoded as UTF-8.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        for row, encoding in enumerate(
            self._tokenizer.encode_batch(clean, add_special_tokens=False)
        ):
            ids = encoding.ids[: self.max_tokens]
            tokens.append(len(encoding.ids))
            if ids:
                feeds: dict[str, Array] = {
                    "token_ids": np.array([ids], np.int64),
                    "token_mask": np.ones((1, len(ids)), np.float32),
                }
                vectors[row] = self._session.run(feeds)["text"][0]
        return Sentences(vectors, tuple(tokens))


def open_sentence_encoder(folder: Path) -> SentenceEncoder:
    """Open the text encoder of a model folder. Raises TextEncoderError, ManifestError."""
    manifest = read_manifest(folder)
    spec = manifest.text_encoder
    if spec is None:
        raise TextEncoderError(f"{folder} is not a text encoder: its task is {manifest.task}")
    return SentenceEncoder(
        folder / spec.tokenizer.file,
        folder / manifest.graphs[TEXT_ENCODER].file,
        spec.dimension,
        spec.max_tokens,
    )
