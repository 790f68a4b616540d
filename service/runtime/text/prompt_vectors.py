"""The vectors of prompts, outside of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.runtime.generation import RunGraph, execute, prompt_plan
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.text.records import encoder_tokenizer


class PromptEncoder:
    """Adds the vectors of prompts to sources. Thread-safe."""

    def __init__(self, encoder: Model, run: RunGraph | None = None) -> None:
        """Use the text encoder `encoder`; `run` runs its graph instead of `Model.run`."""
        self._encoder = encoder
        self._run = run or encoder.run

    def __call__(self, sources: Sequence[LatentSource]) -> list[LatentSource]:
        """Return `sources` with the vectors of their prompts. Each distinct one is encoded once.

        Raises ModelFailed, and what `run` raises.
        """
        texts = list(dict.fromkeys(source.prompt or "" for source in sources))
        prompts = encoder_tokenizer(self._encoder)(texts)
        vectors = execute(prompt_plan(prompts, self._encoder.manifest.output.row[0]), self._run)
        by_text = dict(zip(texts, vectors, strict=True))
        return [replace(source, text=by_text[source.prompt or ""]) for source in sources]

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Return the indices of the prompts with more tokens than the text encoder takes.

        Raises ModelFailed.
        """
        tokenizer = encoder_tokenizer(self._encoder)
        return [i for i, prompt in enumerate(tokenizer(prompts)) if prompt.is_truncated]
