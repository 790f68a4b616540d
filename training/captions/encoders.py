"""The text encoder of a recipe: a model folder that text-to-image models share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.folders import versions_of
from service.runtime.models.manifest import Manifest, read_manifest
from service.runtime.text.sentence_encoder import (
    SentenceEncoder,
    TextEncoderError,
    open_sentence_encoder,
)


@dataclass(frozen=True)
class NamedEncoder:
    """A text encoder with its manifest, which a text-to-image model refers to."""

    manifest: Manifest
    encoder: SentenceEncoder

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings ``[N, d]`` of texts; equal texts are run once."""
        unique = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(unique)}
        return self.encoder.encode(unique).vectors[[row[text] for text in texts]]

    def truncation(self, texts: Sequence[str]) -> str | None:
        """Return how many texts are too long for the encoder, in words; None without such texts."""
        longest = self.encoder.max_tokens
        count = sum(tokens > longest for tokens in self.encoder.count_tokens(texts))
        if not count:
            return None
        return (
            f"{count:,} of {len(texts):,} captions truncated to the first {longest:,} tokens, the "
            f"limit of {self.manifest.name}"
        )


def encoder_folder(name: str) -> Path:
    """Return the folder of the newest version of a text encoder. Raises TextEncoderError."""
    models = Path(os.environ.get("GANYMEDE_MODELS", "models"))
    versions = versions_of(models, name)
    if not versions:
        raise TextEncoderError(
            f"the text encoder {name!r} is not in {models}; make it with "
            "`python -m training.captions.wordllama`, or set GANYMEDE_MODELS"
        )
    return versions[-1]


def open_encoder_of(manifest: Manifest, models: Path) -> NamedEncoder:
    """Open the text encoder that a model names, from the model repository `models`.

    Raises TextEncoderError if it has no version with the digest that the model names.
    """
    spec = manifest.text_input
    if spec is None:
        raise ValueError(f"{manifest.name} takes no text")
    for folder in reversed(versions_of(models, spec.encoder)):
        encoder = read_manifest(folder)
        if encoder.digest == spec.encoder_digest:
            return NamedEncoder(encoder, open_sentence_encoder(folder))
    raise TextEncoderError(
        f"{manifest.name} needs the text encoder {spec.encoder} with the digest "
        f"{spec.encoder_digest[:19]}…, which is not in {models}"
    )


def open_encoder(name: str) -> NamedEncoder:
    """Open a text encoder by the name of its model folder. Raises TextEncoderError."""
    folder = encoder_folder(name)
    return NamedEncoder(read_manifest(folder), open_sentence_encoder(folder))
