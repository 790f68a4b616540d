"""Tasks from picture to picture, one kind a module; `TaskOptions` is the choice of a recipe."""

from typing import Annotated

from pydantic import Field

from training.games.tasks.colorize import ColorizeOptions
from training.games.tasks.inpaint import InpaintOptions
from training.games.tasks.task import ImageTask
from training.games.tasks.translate import PairsOptions, SketchOptions
from training.games.tasks.upscale import UpscaleOptions

TaskOptions = Annotated[
    ColorizeOptions | InpaintOptions | PairsOptions | SketchOptions | UpscaleOptions,
    Field(discriminator="kind"),
]

__all__ = ["ImageTask", "TaskOptions"]
