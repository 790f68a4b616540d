"""Setup of the game on waveforms: the game with its data and sample sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from PIL import Image
from torch import Tensor

from service.runtime.latent import seeds as latents
from training.data.sounds.data import SoundData
from training.data.sounds.decoding import to_int16
from training.data.sounds.sampler import ShuffledSounds, to_waveforms
from training.data.sounds.spectrograms import log_mel
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.games.noise_to_image.setup import check_classes
from training.games.noise_to_sound.options import NoiseToSoundOptions, no_validation
from training.monitoring.diversity import Diversity, rows_to_compare
from training.preview.grids import columns
from training.preview.sounds import sound_sheet
from training.recipe.schema import Recipe

# The seeds of the sample sheet, in full rows of 10 classes. A seed has the same latent as in the
# service.
SHEET_SEEDS = range(40)


class NoiseToSoundSetup:
    """The game together with its data."""

    def __init__(
        self,
        recipe: Recipe,
        options: NoiseToSoundOptions,
        data: SoundData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        check_classes(recipe, data)
        self.game = NoiseToImage(recipe, options, device, precision, distributed)
        self.data = data
        self.class_names = data.class_names if recipe.classes else ()
        self._classes = recipe.classes
        self._device, self._distributed = device, distributed
        self._rate = recipe.data.required_sound.rate
        self._distribution = recipe.generator.from_noise().distribution
        self._batches = ShuffledSounds(data, recipe.train.batch, recipe.train.seed)
        reals = torch.from_numpy(data.samples[rows_to_compare(len(data))])
        self._diversity = Diversity(self._appearance(to_waveforms(reals)), len(SHEET_SEEDS))

    def batches(self, turn: int) -> list[RealBatch]:
        """Return this process's real waveforms of a turn, with their classes."""
        count = self.game.batches_per_turn
        batches = []
        for number in range(turn * count, (turn + 1) * count):
            waveforms, labels = self._batches[number]
            class_index = None
            if self._classes and labels is not None:
                class_index = self._distributed.part(labels).to(self._device, non_blocking=True)
            waveforms = self._distributed.part(waveforms).to(self._device, non_blocking=True)
            batches.append(RealBatch(waveforms, class_index))
        return batches

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return a sheet of sounds generated from fixed latents, and their diversity metrics.

        Distances are those between spectrograms.
        """
        z = torch.from_numpy(latents.draw(SHEET_SEEDS, self.game.z_dim, self._distribution))
        class_index = torch.tensor(SHEET_SEEDS) % self._classes if self._classes else None
        waveforms = self.game.sample(z, class_index)
        samples = to_int16(waveforms[:, 0].numpy())
        sheet = sound_sheet(samples, self._rate, columns(self._classes))
        appearance = self._appearance(waveforms)
        return sheet, self._diversity.measure(appearance) if measure else {}

    def validate(
        self,
        options: EvaluateOptions,  # noqa: ARG002
    ) -> Callable[[], dict[str, float]]:
        """Raise QualityError: only images are evaluated during training."""
        raise no_validation()

    def _appearance(self, waveforms: Tensor) -> Tensor:
        """Return the spectrograms ``[N, 1, bands, frames]`` of waveforms ``[N, 1, T]``."""
        return log_mel(waveforms[:, 0], self._rate)[:, None]
