"""Audio from seeds, latents and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from numpy.typing import ArrayLike

from ganymede_client.outputs.audio import Audio
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, fields, json_request, route
from ganymede_client.wire.values import (
    ClassSelector,
    Weights,
    class_value,
    encode_rows,
    named_weights,
)


@route("POST", "/v1/audio")
def audio(
    model: str,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[ArrayLike] | None = None,
    class_: ClassSelector | Sequence[ClassSelector] | Weights | None = None,
    blend: Weights | None = None,
    truncation: float | None = None,
    format: Literal["wav", "flac"] = "wav",  # noqa: A002 - the name of the field
) -> Call[list[Audio]]:
    """Generate audio from seeds or latents.

    Args:
        model: ``name``, or ``name@version``.
        n: the number of outputs; default: 1.
        seed: output i has the seed ``seed + i``; default: random.
        seeds: the seed of each output, instead of `n` and `seed`.
        z: a latent ``[z_dim]`` for each output, instead of seeds.
        class_: a class by name or index, one for each output, or weights from which the class of
            each output is drawn.
        blend: weights of classes that are blended, instead of `class_`.
        truncation: only for models that support it.
        format: how the files are encoded; both are lossless.
    """
    body = fields(
        model=model,
        n=n,
        seed=seed,
        seeds=seeds,
        z=encode_rows(z),
        class_=class_value(class_),
        blend=blend and named_weights(blend),
        truncation=truncation,
        format=format if format == "flac" else "json",
    )
    return Call(json_request("POST", "/v1/audio", body), parsing.audio)
