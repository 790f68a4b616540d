"""Options shared by the games that train image-to-image models."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.tasks import Task
from training.games.options import GameOptions
from training.games.tasks.task import ImageTask
from training.networks.layers.shapes import ImageToImageShape

if TYPE_CHECKING:
    from training.export.graphs import GraphSpec
    from training.recipe.schema import Recipe


class ImageGameOptions(GameOptions):
    """A game that trains image-to-image models."""

    @abstractmethod
    def image_task(self) -> ImageTask:
        """Return the task of the generator."""

    def direction_names(self) -> tuple[str, ...]:
        """Return the names of the two directions of translation; empty if there is only one."""
        return ()

    def discriminator_sees_input(self) -> bool:
        """Return whether the discriminator also gets the input image."""
        return False

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        if recipe.classes:
            raise ValueError(f"the game {self.kind} does not support classes")
        recipe.generator.from_images()
        recipe.discriminator.of_patches()
        task = self.image_task()
        if task.needs_source and recipe.source is None:
            raise ValueError(f"the task {task.kind} needs a section source with the input images")
        if recipe.source is not None:
            if not task.needs_source:
                raise ValueError(f"the task {task.kind} does not use a section source; remove it")
            for key in ("resolution", "channels"):
                if getattr(recipe.source, key) != getattr(recipe.data, key):
                    raise ValueError(f"source.{key} must equal data.{key}")
        task.check(recipe.data.resolution, recipe.data.channels)

    def image_to_image_shape(self, recipe: Recipe) -> ImageToImageShape:
        """Return the channels and sizes of the generator's input and output."""
        task, channels = self.image_task(), recipe.data.channels
        return ImageToImageShape(
            task.network_in_channels(channels),
            task.network_out_channels(channels),
            recipe.data.resolution // task.scale,
            task.scale,
        )

    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        return recipe.generator.from_images().build(self.image_to_image_shape(recipe))

    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        shape = self.image_to_image_shape(recipe)
        channels = shape.out_channels + (
            shape.in_channels if self.discriminator_sees_input() else 0
        )
        return recipe.discriminator.of_patches().build(channels)

    def image_input(self, recipe: Recipe) -> ImageInput:
        """Return the manifest's description of input images."""
        task, shape = self.image_task(), self.image_to_image_shape(recipe)
        generator = recipe.generator.from_images()
        multiple, min_side = generator.side_multiple(shape), generator.min_side(shape)
        return ImageInput(
            channels=task.input_channels(recipe.data.channels),
            side=shape.side,
            multiple=multiple,
            least=min_side if min_side > multiple else None,
            factor=shape.factor,
            reach=generator.receptive_field(shape),
            masked=task.masked,
            directions=self.direction_names(),
        )

    @property
    def served_task(self) -> Task:
        """The task of the exported model. The route that serves the model has the same name."""
        return self.image_task().route

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graph to export for each direction. `generator` must be in eval mode."""
        from training.export.graphs import (  # noqa: PLC0415 - for export alone
            image_to_image_graph_spec,
            networks_by_role,
        )

        task, image_input = self.image_task(), self.image_input(recipe)
        return [
            image_to_image_graph_spec(role, network, task, image_input)
            for role, network in networks_by_role(generator).items()
        ]
