"""Validates the fields of requests for texts, and for images of prompts.

Every entry point uses this module, as `service.runtime.requests`. Invalid input raises
InvalidRequest with the name of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.runtime import requests
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.manifest import Manifest
from service.runtime.request_fields import InvalidRequest
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import UnknownToken, Vocabulary

MAX_TEMPERATURE = 100.0
# Characters of a prompt. The metadata of a JPEG is limited to 64 KiB, and an escaped character
# takes up to 12 bytes.
MAX_PROMPT = 4000
# Characters of a prefix.
MAX_PREFIX = 10_000


def text_sources(
    manifest: Manifest,
    vocabulary: Vocabulary,
    *,
    max_texts: int,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    prefix: str = "",
    max_length: int | None = None,
) -> list[TextSource]:
    """Return one source per text: `n` consecutive seeds, or one for each of `seeds`.

    Raises InvalidRequest.
    """
    limit = vocabulary.spec.max_length
    if not 0 <= temperature <= MAX_TEMPERATURE or math.isnan(temperature):
        raise InvalidRequest(
            "temperature", f"expected 0 to {MAX_TEMPERATURE:g}, got {temperature:g}"
        )
    if max_length is not None and not 1 <= max_length <= limit:
        raise InvalidRequest(
            "max_length", f"expected 1 to {limit} {vocabulary.spec.unit}s, got {max_length}"
        )
    tokens = prefix_tokens(manifest, vocabulary, prefix)
    numbers = _seeds(manifest, n, seed, seeds, max_texts)
    return [TextSource(each, max_length or limit, temperature, tokens) for each in numbers]


def prefix_tokens(manifest: Manifest, vocabulary: Vocabulary, prefix: str) -> tuple[int, ...]:
    """Return the tokens of a prefix. Raises InvalidRequest."""
    spec = vocabulary.spec
    if len(prefix) > MAX_PREFIX:
        raise InvalidRequest(
            "prefix", f"expected at most {MAX_PREFIX:,} characters, got {len(prefix):,}"
        )
    try:
        tokens = vocabulary.read(prefix)
    except UnknownToken as unknown:
        raise InvalidRequest(
            "prefix",
            f"the {spec.unit} {unknown.token[:50]!r} is not in the vocabulary of {manifest.name}",
        ) from unknown
    if len(tokens) > spec.max_length:
        raise InvalidRequest(
            "prefix", f"expected at most {spec.max_length} {spec.unit}s, got {len(tokens)}"
        )
    return tokens


def prompt_sources(
    manifest: Manifest,
    *,
    max_images: int,
    prompt: str | Sequence[str],
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    truncation: float | None = None,
) -> list[LatentSource]:
    """Return one source per image: `n` for each prompt, prompt by prompt, with consecutive seeds.

    `seeds` has a seed for each image instead. The sources have no vectors yet. Raises
    InvalidRequest.
    """
    is_list = not isinstance(prompt, str)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise InvalidRequest("prompt", "expected at least one prompt")
    for i, each in enumerate(prompts):
        check_prompt(each, f"prompt.{i}" if is_list else "prompt")
    count: int | None = None
    if n is not None or seeds is None or is_list:
        count = len(prompts) * (n or 1)
        requests.assert_at_most(count, max_images, "n" if n else "prompt", manifest)
    sources = requests.generate_sources(
        manifest, max_images=max_images, n=count, seed=seed, seeds=seeds, truncation=truncation
    )
    per_prompt = len(sources) // len(prompts)
    return [replace(source, prompt=prompts[i // per_prompt]) for i, source in enumerate(sources)]


def with_prompt(manifest: Manifest, source: LatentSource, prompt: str | None) -> LatentSource:
    """Return `source` with a prompt, which is empty by default. Raises InvalidRequest."""
    if manifest.text_input is None:
        if prompt is not None:
            raise InvalidRequest("prompt", f"{manifest.name} takes no prompts")
        return source
    check_prompt(prompt or "", "prompt")
    return replace(source, prompt=prompt or "")


def check_prompt(prompt: str, field: str) -> None:
    """Raise InvalidRequest if a prompt is too long, or is not valid Unicode."""
    if len(prompt) > MAX_PROMPT:
        raise InvalidRequest(
            field, f"expected at most {MAX_PROMPT:,} characters, got {len(prompt):,}"
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field, f"has a lone surrogate at position {error.start}, which is not a character"
        ) from error


def _seeds(
    manifest: Manifest,
    n: int | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    maximum: int,
) -> Sequence[int]:
    if seeds is not None:
        if seed is not None:
            raise InvalidRequest("seeds", "give seed or seeds, not both")
        if n is not None and n != len(seeds):
            raise InvalidRequest("n", f"is {n}, but seeds has {len(seeds)} items")
        if not 1 <= len(seeds) <= maximum:
            raise InvalidRequest("seeds", f"expected 1 to {maximum} seeds, got {len(seeds)}")
        if any(not 0 <= each <= MAX_SEED for each in seeds):
            raise InvalidRequest("seeds", f"expected seeds from 0 to {MAX_SEED}")
        return seeds
    count = 1 if n is None else n
    if count < 1:
        raise InvalidRequest("n", f"expected at least 1, got {count}")
    requests.assert_at_most(count, maximum, "n", manifest)
    return requests.consecutive_seeds(seed, count)


def job_text(
    manifest: Manifest,
    vocabulary: Vocabulary | None,
    temperature: float | None,
    prefix: str | None,
    max_length: int | None,
) -> dict[str, Any]:
    """Return the fields of a job of texts; none for other jobs. Raises InvalidRequest."""
    if manifest.text is None or vocabulary is None:
        options = {"temperature": temperature, "prefix": prefix, "max_length": max_length}
        for name, option in options.items():
            if option is not None:
                raise InvalidRequest(name, f"{manifest.name} returns {manifest.output.kind}")
        return {}
    (source,) = text_sources(
        manifest,
        vocabulary,
        max_texts=1,
        temperature=1.0 if temperature is None else temperature,
        prefix=prefix or "",
        max_length=max_length,
    )
    return {
        "temperature": source.temperature,
        "prefix": vocabulary.text(source.prefix),
        "max_length": source.max_length,
    }
