"""Tasks from picture to picture, one kind a module; `TaskOptions` is the choice of a recipe."""

from typing import Annotated

from pydantic import Field

from training.tasks.colorize import ColorizeOptions
from training.tasks.inpaint import InpaintOptions
from training.tasks.task import PictureTask
from training.tasks.translate import PairsOptions, SketchOptions
from training.tasks.upscale import UpscaleOptions

TaskOptions = Annotated[
    ColorizeOptions | InpaintOptions | PairsOptions | SketchOptions | UpscaleOptions,
    Field(discriminator="kind"),
]

__all__ = ["PictureTask", "TaskOptions"]
