"""Records of texts, as in responses and files; vocabulary and tokenizer of loaded models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from service.runtime.generation import RunGraph, execute, text_plan
from service.runtime.models.manifest import ManifestError
from service.runtime.models.model import Model, ModelFailed
from service.runtime.text.prompts import PromptTokenizer, read_tokenizer
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import Vocabulary, read_vocabulary


class TextFormat(StrEnum):
    """A file format for texts."""

    # A line for each text, with its parameters.
    JSONL = "jsonl"

    @property
    def media_type(self) -> str:
        """The media type for Content-Type."""
        return "application/jsonl"

    @property
    def extension(self) -> str:
        """The usual file name extension, without the dot."""
        return self.value


def generate_records(
    model: Model,
    sources: Sequence[TextSource],
    run: RunGraph | None = None,
    max_rows: int | None = None,
) -> list[dict[str, Any]]:
    """Generate texts in the calling thread, and return their records.

    `run` runs the graph; default: `Model.run`. Raises ModelFailed, and what `run` raises.
    """
    vocabulary = model_vocabulary(model)
    tokens = execute(text_plan(model.manifest, sources), run or model.run, max_rows)
    return [
        text_record(source, each, vocabulary) for source, each in zip(sources, tokens, strict=True)
    ]


def record_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of a JSON Lines file."""
    return json.dumps(record).encode() + b"\n"


def text_record(
    source: TextSource, tokens: Sequence[int], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return the text of `tokens`, those of the prefix included, as a JSON object."""
    generated = len(tokens) - len(source.prefix)
    return {
        "seed": source.seed,
        "temperature": source.temperature,
        "prefix": vocabulary.text(source.prefix),
        "max_length": source.max_length,
        "text": vocabulary.text(tokens),
        "tokens": generated,
        "finish_reason": "length" if generated == source.max_length else "end",
    }


def model_vocabulary(model: Model) -> Vocabulary:
    """Return the vocabulary of a loaded text model. Raises ModelFailed."""
    spec = model.manifest.text
    assert spec is not None  # noqa: S101 - checked by the caller
    try:
        return read_vocabulary(model.folder, spec)
    except ManifestError as error:
        raise ModelFailed(f"{model.manifest.name} cannot be served: {error}") from error


def encoder_tokenizer(encoder: Model) -> PromptTokenizer:
    """Return the tokenizer of a loaded text encoder. Raises ModelFailed."""
    spec = encoder.manifest.text_encoder
    assert spec is not None  # noqa: S101 - checked when the model that uses it was loaded
    try:
        return read_tokenizer(encoder.folder, spec)
    except ManifestError as error:
        raise ModelFailed(f"{encoder.manifest.name} cannot be served: {error}") from error
