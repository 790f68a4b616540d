"""Request and response of `/v1/audio`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    BLEND,
    CLASS,
    MODEL,
    TRUNCATION,
    AudioFileFormat,
    ClassesField,
    ClassWeightsField,
    Latents,
    ModelIdentity,
    RequestModel,
    Seed,
    Seeds,
    TruncationField,
)


class AudioRequest(RequestModel):
    """Audio from seeds or latents: `n` outputs of consecutive seeds, or one for each list item.

    At most one of `seed`, `seeds` and `z` gives the sources. Without any of them, the seeds are
    random.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "wavegan-digits", "seed": 7, "class": "3"}]},
    )

    model: str = Field(description=MODEL)
    n: int | None = Field(default=None, ge=1, description="The number of outputs. Default: 1.")
    seed: Seed | None = Field(
        default=None,
        description="Output i has seed + i. Default: random, unless another source is given.",
    )
    seeds: Seeds | None = None
    z: Latents | None = Field(
        default=None, description="Latents: each a list of floats, or float32 in base64."
    )
    class_: ClassesField | None = Field(
        default=None,
        alias="class",
        description=f"{CLASS} Or a list with one class for each output. Default: seed modulo the "
        "number of classes.",
    )
    blend: ClassWeightsField | None = Field(default=None, description=BLEND)
    truncation: TruncationField | None = Field(default=None, description=TRUNCATION)
    format: AudioFileFormat | None = Field(
        default=None,
        description="Takes precedence over the Accept header. A single output is returned as a "
        "file (wav, flac; png: its waveform and spectrogram); several are returned as JSON with "
        "base64, unless zip (of WAV) or npy is requested. npy is int16 [n, samples].",
    )


class GeneratedAudio(BaseModel):
    """One file in base64, with the parameters that reproduce it."""

    seed: int | None = None
    z: str | None = Field(default=None, description="float32 in base64, if it was sent.")
    class_: str | None = Field(default=None, alias="class")
    blend: dict[str, float] | None = None
    truncation: float | None = None
    media_type: str
    data: str = Field(description="base64")


class AudioResponse(ModelIdentity):
    """Audio in the order of its sources."""

    sample_rate: int = Field(description="Samples per second, in Hz.")
    audio: list[GeneratedAudio]
