"""Options of the game that trains text-to-image models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.inputs import TextInput
from service.runtime.models.parts.tasks import Task
from training.captions.encoders import encoder_folder, open_encoder
from training.captions.reading import (
    CaptionOptions,
    captioned,
    example_prompts,
    held_out_texts,
)
from training.games.noise_to_image.options import NoiseToImageOptions, image_shape

if TYPE_CHECKING:
    import torch

    from service.runtime.models.model import Model
    from training.data.images import ImageData, Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.export.graphs import GraphSpec
    from training.export.preview import Preview
    from training.games.text_to_image.setup import TextToImageSetup
    from training.recipe.schema import Recipe


class TextToImageOptions(NoiseToImageOptions):
    """A conditional GAN on sentence embeddings.

    The discriminator also rejects real images with the caption of another image (GAN-CLS, Reed et
    al. 2016, arXiv:1605.05396, section 4.2).
    """

    kind: Literal["text_to_image"]  # type: ignore[assignment]
    captions: CaptionOptions = CaptionOptions()
    # Dimension of the sentence embeddings of the encoder.
    dimension: PositiveInt = 256
    # Share of the generator's captions that are the mean of two captions (GAN-INT, section 4.3).
    interpolated: float = Field(default=0.5, ge=0, le=1)
    # Weight and power of the matching-aware gradient penalty (DF-GAN, Tao et al. 2022,
    # arXiv:2008.05865, equation 1: k and p); weight 0 turns it off.
    matching_penalty: NonNegativeFloat = 2.0
    # The paper's value at 256 pixels is 6; see the recipe text2emoji for small images.
    matching_power: PositiveFloat = 6.0

    @property
    def has_penalties(self) -> bool:
        """Whether the discriminator has penalties on its gradients."""
        return bool(self.matching_penalty) or super().has_penalties

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        super().check(recipe)
        if recipe.classes:
            raise ValueError(f"the game {self.kind} does not support classes")
        if self.growing:
            raise ValueError(f"the game {self.kind} does not support growing")
        if self.loss == "relativistic":
            raise ValueError(
                f"the game {self.kind} has two rejected batches for each real one, which the "
                "relativistic loss cannot pair; use hinge"
            )

    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        return recipe.generator.from_noise().build_for_text(image_shape(recipe), self.dimension)

    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        return recipe.discriminator.of_images().build_for_text(image_shape(recipe), self.dimension)

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> ImageData:
        """Decode the images of `recipe.data` and check their captions.

        The preparation tells how many captions are truncated. Raises DataError, TextEncoderError.
        """
        from training.data.images import load_images  # noqa: PLC0415 - not to read a recipe

        images = load_images(recipe.data, progress)
        rows = captioned(recipe.data, images, self.captions).rows
        encoder = open_encoder(self.captions.encoder)
        truncation = encoder.truncation([caption for row in rows for caption in row])
        if truncation is None:
            return images
        return replace(images, notes=(*images.notes, truncation), preparation=truncation)

    def set_up(
        self,
        recipe: Recipe,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> TextToImageSetup:
        """Build the players and their data. Raises RecipeError, DataError, TextEncoderError."""
        from training.games.text_to_image.setup import TextToImageSetup  # noqa: PLC0415

        return TextToImageSetup(recipe, self, data, device, precision, distributed)

    def text_input(self) -> TextInput:
        """Return the manifest's description of text embeddings. Raises TextEncoderError."""
        manifest = read_manifest(encoder_folder(self.captions.encoder))
        return TextInput(
            encoder=manifest.name, encoder_digest=manifest.digest, dimension=self.dimension
        )

    def preview(self, recipe: Recipe, model: Model) -> Preview:
        """Return images of held-out prompts, or of captions of training images without any."""
        from training.games.text_to_image.exporting import prompts_preview  # noqa: PLC0415

        return prompts_preview(
            model,
            self.captions.encoder,
            example_prompts(recipe.data, self.captions),
            held_out=bool(held_out_texts(recipe.data, self.captions)),
        )

    @property
    def served_task(self) -> Task:
        """The task of the exported model."""
        return "text-to-image"

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graph to export. `generator` must be in eval mode."""
        from training.games.text_to_image.exporting import text_to_image_graph_spec  # noqa: PLC0415

        options = recipe.generator.from_noise()
        return [
            text_to_image_graph_spec(generator, options.z_dim, self.dimension, options.distribution)
        ]
