"""The service's settings: from the environment (``GANYMEDE_…``), or from the command's flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.runtime.sessions import ProviderWish


def _models_folder() -> Path:
    """``models`` here, else the one beside the code: that of a checkout, a container, a Bento."""
    here = Path("models")
    return here if here.is_dir() else Path(__file__).parent.parent / "models"


class Settings(BaseSettings):
    """What an operator may set. Every name stands in the environment with ``GANYMEDE_`` before."""

    model_config = SettingsConfigDict(env_prefix="GANYMEDE_")

    models: Path = Field(
        default_factory=_models_folder, description="The model repository: <name>/<version>/."
    )
    provider: ProviderWish = Field(
        default="auto",
        description="auto takes CUDA when it is there. cuda is not ready without it.",
    )
    max_images: Annotated[int, Field(gt=0, le=10_000)] = Field(
        default=256, description="Images in one request; more are refused with 422."
    )
    max_frames: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=600, description="Frames of one walk; more are refused with 422."
    )
    queue_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**28,
        description="Pixels waiting or being made at a time, beyond which requests get 429. "
        "A low bound refuses work instead of letting it wait too long.",
    )
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="Seconds after which a request gets 504 and its work is dropped."
    )
    plan: Literal["measure", "default"] = Field(
        default="measure",
        description="How a model's workers, threads and rows are found where none are set.",
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Batches that run at a time; 0 finds it out."
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Threads of one run; 0 finds it out."
    )
    max_rows: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0, description="Pictures in one run; 0 finds it out."
    )
    watch_s: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Seconds between two looks at the model repository, whose changes are then "
        "loaded; 0 never looks.",
    )
    drain_s: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="Seconds that accepted work has to end when the service stops."
    )
    hang_s: Annotated[float, Field(gt=0)] = Field(
        default=120.0,
        description="Seconds after which one run counts as hung, and the process is replaced.",
    )
