"""The vectors of prompts, by the text encoder of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.api import responses
from service.api.execution import RequestExecution
from service.api.middleware.json_bodies import process
from service.api.state import ServiceState
from service.runtime.generation import prompt_plan
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.text.prompts import Prompt
from service.runtime.text.records import encoder_tokenizer


async def encode_prompts(
    execution: RequestExecution,
    state: ServiceState,
    model: Model,
    sources: Sequence[LatentSource],
) -> tuple[list[LatentSource], dict[str, str]]:
    """Return `sources` with the vectors of their prompts, and headers about truncated prompts.

    Each distinct prompt is encoded once. Raises ModelFailed, and the errors of
    RequestExecution.run.
    """
    encoder = state.find_encoder(model)
    texts = list(dict.fromkeys(source.prompt or "" for source in sources))
    tokenizer = encoder_tokenizer(encoder)
    # Long prompts take seconds.
    prompts = await process(sum(map(len, texts)), lambda: tokenizer(texts))
    plan = prompt_plan(prompts, encoder.manifest.output.row[0])
    vectors = await execution.execute(encoder, plan, lambda rows: rows)
    by_text = dict(zip(texts, vectors, strict=True))
    encoded = [replace(source, text=by_text[source.prompt or ""]) for source in sources]
    return encoded, truncation_header(model, prompts)


def truncation_header(model: Model, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Return the header with the tokens kept and given, as ``128/300``, of truncated prompts.

    Empty if every prompt is complete.
    """
    if not any(prompt.is_truncated for prompt in prompts):
        return {}
    kept = [
        f"{len(prompt.tokens)}/{prompt.length}" if prompt.is_truncated else "" for prompt in prompts
    ]
    return responses.headers(model, prompt_truncated=kept)
