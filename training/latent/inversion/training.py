"""Trains an encoder on the model's own samples, whose latents are known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.files import replacing
from service.runtime.formatting import exact
from training.latent.generator import Conditions, LatentGenerator, Latents, tensors, to_images
from training.latent.inversion.encoder import Encoder, start_latent
from training.latent.inversion.losses import for_features, pixel_loss
from training.networks.pretrained.perceptual import PerceptualFeatures, feature_distance

CHECKPOINT_FILE = "encoder.pt"
SETTINGS_FILE = "encoder.json"
LOG_FILE = "log.jsonl"
# Seeds of training samples start here, so that smaller seeds are left to measure with.
FIRST_SEED = 2**24
_SEEDS = 2**32 - FIRST_SEED
# The share of training latents with styles that differ between layers: photographs need them.
_MIXED_SHARE = 0.5
# Gradients through the generator are expensive: they are computed for a part of each batch.
_IMAGE_LOSS_SHARE = 0.25
_LATENT_WEIGHT, _PIXEL_WEIGHT, _FEATURE_WEIGHT = 1.0, 2.0, 1.0
_AVERAGE_DECAY = 0.997
# The learning rate falls to 0 in the last part of the training.
_DECAY_SHARE = 0.4
_SAVE_S = 120.0

# Called with the images seen, their total, and the latest losses as text.
Progress = Callable[[int, int, str], None]


class EncoderTrainingError(UserError):
    """A training of an encoder cannot start or continue. The message is one line."""


@dataclass(frozen=True)
class EncoderSettings:
    """What determines an encoder, beside the model and the number of images."""

    batch: int = 16
    passes: int = 3
    seed: int = 0
    learning_rate: float = 1e-3
    width: int = 128
    hidden: int = 256


class EncoderTraining:
    """A training that can be continued: its state is in a run folder.

    Each step draws a batch of new samples and trains `passes` passes on it, each from the latent
    that the previous one reached (ReStyle, section 3.3), with one update of the weights each. All
    random numbers of a step depend on the seed and the number of the step, so a continued training
    equals an uninterrupted one.
    """

    def __init__(self, generator: LatentGenerator, settings: EncoderSettings, out: Path) -> None:
        """Open the run folder `out`, and continue from its checkpoint if it has one.

        Raises EncoderTrainingError if it was started with another model or other settings.
        """
        self.generator, self.settings, self.out = generator, settings, out
        self.step, self.seconds = 0, 0.0
        mean, deviation = generator.statistics()
        self.start = start_latent(generator.manifest, mean)
        torch.manual_seed(settings.seed)
        self.encoder = Encoder(generator.manifest, mean, deviation, settings.width, settings.hidden)
        self.average = Encoder(
            generator.manifest, mean, deviation, settings.width, settings.hidden
        ).requires_grad_(False)
        self.average.load_state_dict(self.encoder.state_dict())
        self.optimizer = torch.optim.Adam(
            self.encoder.parameters(), settings.learning_rate, betas=(0.9, 0.99)
        )
        self.features = PerceptualFeatures()
        self._open()

    @property
    def images(self) -> int:
        """The number of samples that the encoder has seen."""
        return self.step * self.settings.batch

    def train(self, images: int, progress: Progress | None = None) -> None:
        """Continue until the encoder has seen `images` samples. Saves every two minutes."""
        steps = -(-images // self.settings.batch)
        started = saved = time.monotonic()
        before = self.seconds
        while self.step < steps:
            losses = self._train_step(self.step, steps)
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - started
            if now - saved >= _SAVE_S or self.step == steps:
                self._save(losses)
                saved = now
            if progress:
                note = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
                progress(self.images, steps * self.settings.batch, note)

    def _train_step(self, step: int, steps: int) -> dict[str, float]:
        random = np.random.default_rng((self.settings.seed, step))
        latents, conditions = self._samples(random)
        pixels = self.generator.pixels(latents, conditions)
        image, target = torch.from_numpy(pixels), torch.from_numpy(latents)
        given = tensors(conditions)
        classes = {name: each for name, each in given.items() if name.startswith("class_")}
        count = len(pixels)
        latent = torch.from_numpy(np.repeat(self.start[None], count, 0))
        shown = max(round(_IMAGE_LOSS_SHARE * count), 1)
        losses: dict[str, float] = {}
        rate = self.settings.learning_rate * _rate(step, steps)
        for number in range(self.settings.passes):
            reconstruction = self._reconstruction(latent, conditions)
            (latent,) = self.encoder(
                image, reconstruction, **{self.generator.space: latent}, **classes
            )
            error = (latent - target) / self.encoder.deviation
            # Without a bound, a few latents that are far off would dominate.
            latent_loss = 2 * F.smooth_l1_loss(error, torch.zeros_like(error))
            loss = _LATENT_WEIGHT * latent_loss
            if (step + number) % 2 == 0:
                rows = torch.from_numpy(random.choice(count, shown, replace=False))
                pixel, feature = self._image_losses(
                    latent[rows],
                    to_images(pixels)[rows],
                    {name: each[rows] for name, each in given.items()},
                )
                loss = loss + _PIXEL_WEIGHT * pixel + _FEATURE_WEIGHT * feature
                losses |= {"pixel": pixel.item(), "feature": feature.item()}
            self._update(loss, rate)
            latent = latent.detach()
            losses[f"latent {number + 1}"] = latent_loss.item()
        if not all(map(math.isfinite, losses.values())):
            raise EncoderTrainingError(
                f"the losses are not finite after {self.images:,} images: try --learning-rate "
                f"{exact(self.settings.learning_rate / 4)}"
            )
        return losses

    def _update(self, loss: Tensor, rate: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._update_average()

    def _samples(self, random: np.random.Generator) -> tuple[Latents, Conditions]:
        """Draw a batch of latents. A part of them has styles of two samples in random layers."""
        seeds = FIRST_SEED + random.integers(0, _SEEDS, 2 * self.settings.batch)
        count = self.settings.batch
        latents, conditions = self.generator.draw([int(seed) for seed in seeds[:count]])
        if self.generator.space == "w":
            others, _ = self.generator.draw([int(seed) for seed in seeds[count:]])
            layers = latents.shape[1]
            # Styles between those of two samples, with another share in each layer.
            share = random.random((count, layers, 1)) * random.random((count, 1, 1))
            mixed = random.random((count, 1, 1)) < _MIXED_SHARE
            latents = np.where(mixed, latents + share * (others - latents), latents)
        return latents.astype(np.float32), conditions

    def _reconstruction(self, latent: Tensor, conditions: Conditions) -> Tensor:
        return torch.from_numpy(self.generator.pixels(latent.numpy(), conditions))

    def _image_losses(
        self, latent: Tensor, target: Tensor, conditions: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean squared difference of the pixels, and the feature distance."""
        images = self.generator(latent, conditions)
        pixel = pixel_loss(images, target).mean()
        return pixel, feature_distance(self.features, for_features(images), for_features(target))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(_AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        for average, current in zip(
            self.average.parameters(), self.encoder.parameters(), strict=True
        ):
            average.lerp_(current, 1 - decay)

    def _open(self) -> None:
        given = {"model": self.generator.manifest.digest, **asdict(self.settings)}
        path = self.out / SETTINGS_FILE
        if self.out.exists() and not self.out.is_dir():
            raise EncoderTrainingError(f"{self.out} is a file; a run needs a folder")
        if not path.exists():
            if self.out.exists() and any(self.out.iterdir()):
                raise EncoderTrainingError(
                    f"{self.out} is not empty and not a run of train-encoder: choose another --out"
                )
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(given, indent=2) + "\n")
            return
        try:
            stored: Any = json.loads(path.read_text())
        except ValueError as error:
            raise EncoderTrainingError(f"{path} is damaged: choose another --out") from error
        if not isinstance(stored, dict):
            raise EncoderTrainingError(f"{path} is damaged: choose another --out")
        if stored != given:
            names = ", ".join(sorted(k for k in given if stored.get(k) != given[k]))
            raise EncoderTrainingError(
                f"{self.out} was started with another {names}: continue it with the same values, "
                "or choose another --out"
            )
        checkpoint = self.out / CHECKPOINT_FILE
        if checkpoint.exists():
            try:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True)
                self.encoder.load_state_dict(state["encoder"])
                self.average.load_state_dict(state["average"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds = state["step"], state["seconds"]
            except Exception as error:
                raise EncoderTrainingError(
                    f"{checkpoint} is damaged: delete it to start again"
                ) from error

    def _save(self, losses: dict[str, float]) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "encoder": self.encoder.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(self.out / CHECKPOINT_FILE) as temporary:
            torch.save(state, temporary)
        record = {"images": self.images, "seconds": round(self.seconds, 1), **losses}
        with (self.out / LOG_FILE).open("a") as file:
            file.write(json.dumps(record) + "\n")


def _rate(step: int, steps: int) -> float:
    """Return the learning rate as a share: it rises to 1 at first, and falls to 0 in the end."""
    warm_up = min((step + 1) / min(100, max(steps // 10, 1)), 1.0)
    return warm_up * min((steps - step) / (_DECAY_SHARE * steps), 1.0)
