"""The registry of image-to-image tasks."""

from __future__ import annotations

from typing import Annotated

from training.games.tasks.task import ImageTask
from training.recipe.choices import OneOf, import_modules

Task = Annotated[ImageTask, OneOf("kind")]


def register_tasks() -> None:
    """Import every task, which registers it for recipes."""
    import_modules("training.games.tasks")
