"""What the games from images to images have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from service.runtime.models.manifest import ImageInput, Task
from training.games.options import GameOptions
from training.games.tasks.task import ImageTask
from training.networks.layers.shapes import ImageToImageShape

if TYPE_CHECKING:
    from training.export.graphs import GraphSpec
    from training.recipe.schema import Recipe


class ImageGameOptions(GameOptions):
    """A game whose generators take images."""

    @abstractmethod
    def image_task(self) -> ImageTask:
        """Return what a generator does with its input images."""

    def direction_names(self) -> tuple[str, ...]:
        """Return the names of the two directions of translation; empty if there is only one."""
        return ()

    def discriminator_sees_input(self) -> bool:
        """Return whether the discriminator is conditional on the input."""
        return False

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        if recipe.classes:
            raise ValueError(f"classes is for the game noise_to_image, not for {self.kind}")
        recipe.generator.from_images()
        recipe.discriminator.of_patches()
        task = self.image_task()
        if task.needs_source and recipe.source is None:
            raise ValueError(f"the task {task.kind} needs the section source: its input images")
        if recipe.source is not None:
            if not task.needs_source:
                raise ValueError(f"the task {task.kind} takes no section source")
            for key in ("resolution", "channels"):
                if getattr(recipe.source, key) != getattr(recipe.data, key):
                    raise ValueError(f"source.{key} must equal data.{key}")
        task.check(recipe.data.resolution, recipe.data.channels)

    def image_to_image_shape(self, recipe: Recipe) -> ImageToImageShape:
        """Return the channels and sizes of a generator's input and output."""
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
        """The task of the exported model, which is also the route that serves it."""
        return self.image_task().route

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graph to export of each direction's generator in evaluation mode."""
        from training.export.graphs import (  # noqa: PLC0415 - for export alone
            image_to_image_graph_spec,
            networks_by_role,
        )

        task, image_input = self.image_task(), self.image_input(recipe)
        return [
            image_to_image_graph_spec(role, network, task, image_input)
            for role, network in networks_by_role(generator).items()
        ]
