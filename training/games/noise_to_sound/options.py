"""Options of the game that generates sounds from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from service.runtime.models.parts.outputs import AudioSpec, OutputSpec
from service.runtime.models.parts.tasks import Task
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.errors import QualityError
from training.games.noise_to_image.options import NoiseToImageOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from training.data.dataset import Dataset
    from training.data.images import Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.export.graphs import GraphSpec
    from training.games.game import Validation
    from training.games.noise_to_sound.setup import NoiseToSoundSetup
    from training.recipe.schema import Recipe

# Options of the game on images that do not apply to sounds, and why.
_IMAGES_ONLY = {
    "augment": "transforms images",
    "growing": "grows the resolution of images",
    "style_mixing": "needs a generator with styles, and there is none for sounds",
    "path_length": "needs a generator with styles, and there is none for sounds",
}


class NoiseToSoundOptions(NoiseToImageOptions):
    """The game of the original GAN on waveforms. Its rules are those of `noise_to_image`."""

    takes_sounds: ClassVar[bool] = True

    kind: Literal["noise_to_sound"]  # type: ignore[assignment]

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        for key, reason in _IMAGES_ONLY.items():
            if getattr(self, key):
                raise ValueError(f"game.{key} {reason}; remove it from a recipe for sounds")
        if recipe.evaluate is not None:
            raise ValueError(
                "section evaluate: only images are evaluated during training; remove it and use "
                "ganymede evaluate on the run"
            )
        self._check_players(recipe)

    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        samples = recipe.data.required_sound.samples
        return recipe.generator.from_noise().build_sound(samples, recipe.classes)

    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        samples = recipe.data.required_sound.samples
        return recipe.discriminator.of_images().build_sound(samples, recipe.classes)

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> Dataset:
        """Decode the sounds of `recipe.data`. Raises DataError."""
        from training.data.sounds.data import load_sounds  # noqa: PLC0415 - not to read a recipe

        return load_sounds(recipe.data, progress)

    def set_up(
        self,
        recipe: Recipe,
        data: Any,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> NoiseToSoundSetup:
        """Build the players and their data. Raises RecipeError."""
        from training.games.noise_to_sound.setup import NoiseToSoundSetup  # noqa: PLC0415

        return NoiseToSoundSetup(recipe, self, data, device, precision, distributed)

    def validation(
        self,
        recipe: Recipe,  # noqa: ARG002
        options: EvaluateOptions,  # noqa: ARG002
        *,
        confirms: bool = False,  # noqa: ARG002
    ) -> Validation:
        """Raise QualityError: only images are evaluated during training."""
        raise no_validation()

    @property
    def served_task(self) -> Task:
        """The task of the exported model."""
        return "audio"

    def write_output(
        self,
        recipe: Recipe,
        generator: nn.Module,  # noqa: ARG002
        state: Mapping[str, Any],  # noqa: ARG002
        folder: Path,  # noqa: ARG002
    ) -> dict[str, OutputSpec]:
        """Return the rate and the length of the sounds."""
        sound = recipe.data.required_sound
        return {"audio": AudioSpec(sample_rate=sound.rate, samples=sound.samples)}

    def card_notes(self, recipe: Recipe) -> Sequence[str]:
        """Return what the model card says about the limits of the sounds."""
        sound = recipe.data.required_sound
        kept = "" if sound.peak is None else f" Sounds are as loud as a peak of {sound.peak:g}."
        return (
            f"Limits: every sound has {sound.samples / sound.rate:.3g} s in one channel, and "
            f"nothing above {sound.rate // 2:,} Hz; it imitates the voices and instruments of the "
            f"training data only. A waveform GAN leaves audible noise.{kept} Listen to "
            "`preview.wav` before you use it.",
        )

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graph to export. `generator` must be in eval mode."""
        from training.export.graphs import sound_graph_specs  # noqa: PLC0415 - for export alone

        options = recipe.generator.from_noise()
        return sound_graph_specs(generator, options.z_dim, recipe.classes, options.distribution)


def no_validation() -> QualityError:
    """Return the error of an evaluation during the training on sounds."""
    return QualityError("sounds are not evaluated during training; use ganymede evaluate")
