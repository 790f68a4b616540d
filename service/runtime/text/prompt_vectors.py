"""The vectors of prompts, outside of the service's scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.runtime.generation import execute, prompt_plan
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.text.records import encoder_tokenizer


def with_prompt_vectors(sources: Sequence[LatentSource], encoder: Model) -> list[LatentSource]:
    """Return `sources` with the vectors of their prompts, which the text encoder computes.

    Raises ModelFailed.
    """
    prompts = encoder_tokenizer(encoder)([source.prompt or "" for source in sources])
    vectors = execute(prompt_plan(prompts, encoder.manifest.output.row[0]), encoder.run)
    return [replace(s, text=vector) for s, vector in zip(sources, vectors, strict=True)]
