"""The game of the original GAN: the generator maps noise to images, the discriminator scores them.

Algorithm 1 of Goodfellow et al. 2014, arXiv:1406.2661: k steps of the discriminator, then one step
of the generator. In conditional GANs (arXiv:1411.1784), both players also get the class, and
generated images have the classes of the real images in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.latent import seeds
from training.augmentation.augment import build_augment
from training.device import Precision
from training.distributed import DistributedContext
from training.export.folding import settle_spectral_norms
from training.export.standing_statistics import has_batch_statistics, with_standing_statistics
from training.games.balance import Balance
from training.games.noise_to_image.options import NoiseToImageOptions, image_shape
from training.games.players import Players, StepLoss
from training.losses import adversarial_loss, separation
from training.networks.layers.growth import match_growth
from training.networks.noise.style_generator import StyleGenerator, StyleMix
from training.penalties import (
    clip_weights,
    gradient_penalty,
    layer_weights,
    orthogonal_penalty,
    path_lengths,
    zero_centered_penalty,
)
from training.recipe.schema import Recipe

# Turns between two adjustments of the augmentation, as in ADA's official implementation.
ADAPT_EVERY = 4
# Rate of the running mean of path lengths, as in StyleGAN2's official implementation.
PATH_LENGTH_RATE = 0.01


class RealBatch(NamedTuple):
    """Real images ``[N, C, H, W]`` in [-1, 1], and what they depict, for conditional GANs.

    `condition` are the classes ``[N]``, or the embeddings ``[N, d]`` of captions. `mismatched` are
    embeddings of captions of other images. In the game `noise_to_sound`, the images are waveforms
    ``[N, 1, T]``.
    """

    images: Tensor
    condition: Tensor | None = None
    mismatched: Tensor | None = None


class StepBatch(NamedTuple):
    """The inputs of one step of a player: real images, and latents ``[N, z_dim]``."""

    reals: RealBatch
    z: Tensor
    # The second latents of style mixing.
    mix: StyleMix | None = None
    # Interpolation weights of the gradient penalty ``[N]``: 1 is real, 0 is generated.
    between: Tensor | None = None

    def parts(self, count: int) -> Iterator[StepBatch]:
        """Split the rows into `count` batches of equal size."""
        size = len(self.z) // count
        return (self._rows(slice(i * size, (i + 1) * size)) for i in range(count))

    def first(self, count: int) -> StepBatch:
        """Return the first `count` rows."""
        return self._rows(slice(count))

    def _rows(self, rows: slice) -> StepBatch:
        return StepBatch(
            RealBatch(
                self.reals.images[rows],
                *(None if each is None else each[rows] for each in self.reals[1:]),
            ),
            self.z[rows],
            None if self.mix is None else StyleMix(self.mix.z[rows], self.mix.crossover[rows]),
            None if self.between is None else self.between[rows],
        )


class NoiseToImage:
    """The players, their optimizers, and the generator's moving average.

    Metrics of a turn, each a scalar tensor: `loss_discriminator`, `loss_generator`; the mean scores
    `real_score` D(x) and `fake_score` D(G(z)) of the discriminator step (probabilities if the loss
    defines them, else logits); `separation`; `gradient_<player>`, the gradient norm before
    clipping; and `penalty`, `path_length`, `augment_probability` and `discriminator_steps`, if
    enabled.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: NoiseToImageOptions,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        generator = recipe.build_generator()
        discriminator = recipe.build_discriminator()
        latent = recipe.generator.from_noise()
        self.options = options
        self.z_dim, self._distribution = latent.z_dim, latent.distribution
        self.classes = recipe.classes
        self.loss = adversarial_loss(options.loss, options.real_target)
        self._distributed, self._device = distributed, device
        self.augment = build_augment(options.augment)
        self.balance = Balance(options.balance, distributed, device) if options.balance else None
        self._real_signs = torch.zeros((), device=device)
        self._noise = 0.0
        self._shape = image_shape(recipe)
        self._growth = options.growing.at(0, self._shape.height) if options.growing else None
        self._parts = recipe.train.accumulate
        self._mean_path_length = torch.zeros((), device=device)
        self._generator_steps = 0
        self._players = Players(
            recipe,
            generator,
            discriminator,
            device,
            precision,
            distributed,
            unused_weights=options.growing is not None,
        )
        self._networks = self._players.networks
        self._G, self._D = self._players.wrapped.values()

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The networks with weights, by name."""
        return self._players.weights

    @property
    def average(self) -> nn.Module:
        """The generator's moving average, which is sampled and exported."""
        return self._players.average

    @property
    def batches_per_turn(self) -> int:
        """Number of batches of real images in one turn: one for each discriminator step."""
        return self.options.discriminator_steps

    # Algorithm 1: the minimax game.

    def turn(
        self, batches: Sequence[RealBatch], rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Train the discriminator on each of `batches`, then the generator; return the metrics.

        `rng` has the same state in all processes; each process uses its part of the numbers.
        """
        batches = self._follow_schedules(batches, images_seen)
        metrics: dict[str, Tensor] = {}
        for reals in batches:
            metrics |= self.discriminator_step(reals, rng, number)
        if self._players.trains_generator(images_seen) and (
            self.balance is None or self.balance.generator_is_due(metrics["separation"])
        ):
            metrics |= self.generator_step(batches[-1], rng, self._generator_steps)
            self._generator_steps += 1
        images = len(batches[-1].images) * self._distributed.world * len(batches)
        self._players.update_average(images, images_seen)
        if self.augment.adapts:
            self._adapt(number, images)
            metrics["augment_probability"] = torch.tensor(self.augment.probability)
        if self.balance:
            metrics["discriminator_steps"] = torch.tensor(self.balance.steps)
        return metrics

    def discriminator_step(
        self, reals: RealBatch, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        """Ascend the discriminator's objective on real images and newly generated ones."""
        batch = self.draw_batch(reals, rng)
        metrics = self._players.descend(
            "discriminator", batch.parts(self._parts), self.discriminator_loss
        )
        metrics |= self._lazy_step("discriminator", batch, number, self._lazy_penalty)
        if self.options.clip_weights is not None:
            clip_weights(self._networks["discriminator"].parameters(), self.options.clip_weights)
        return metrics

    def generator_step(
        self, reals: RealBatch, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        """Descend the generator's objective. The discriminator's weights do not change."""
        batch = self.draw_batch(reals, rng)
        with self._players.fixed("discriminator"):
            metrics = self._players.descend(
                "generator", batch.parts(self._parts), self.generator_loss
            )
        return metrics | self._lazy_step("generator", batch, number, self._lazy_path_length)

    def discriminator_loss(self, batch: StepBatch) -> StepLoss:
        """Return the discriminator's loss for D(x) and D(G(z)), plus penalties of every turn."""
        reals = batch.reals
        with self._players.autocast():
            fake = self._fakes(batch)
            real = self._discriminator_input(reals.images)
            real_logits = self._logits(self._D, real, reals.condition)
            fake_logits = self._logits(self._D, self._discriminator_input(fake), reals.condition)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        negatives = {
            name: logits.float() for name, logits in self._other_negatives(real, reals).items()
        }
        loss = self.loss.discriminator(real_logits, torch.cat([fake_logits, *negatives.values()]))
        metrics = {
            "loss_discriminator": loss.detach(),
            "real_score": self.loss.score(real_logits),
            "fake_score": self.loss.score(fake_logits),
            "separation": separation(real_logits, fake_logits),
            **{f"{name}_score": self.loss.score(logits) for name, logits in negatives.items()},
        }
        if self.options.has_penalties and self.options.penalty_every == 1:
            penalty = self._penalty(reals, fake.float(), batch.between)
            metrics["penalty"] = penalty.detach()
            loss = loss + penalty
        if self.augment.adapts:
            sign = real_logits.detach().sign().mean()
            self._real_signs = self._real_signs + sign / self._parts
        return StepLoss(loss, metrics)

    def generator_loss(self, batch: StepBatch) -> StepLoss:
        """Return the generator's loss for D(G(z)), plus penalties of every turn."""
        discriminator, classes = self._networks["discriminator"], batch.reals.condition
        with self._players.autocast():
            fake = self._discriminator_input(self._generate(self._G, batch))
            fake_logits = self._logits(discriminator, fake, classes).float()
            real_logits = fake_logits.detach()
            if self.loss.generator_sees_real:
                real = self._discriminator_input(batch.reals.images)
                real_logits = self._logits(discriminator, real, classes).float()
        loss = self.loss.generator(real_logits, fake_logits)
        metrics = {"loss_generator": loss.detach()}
        if self.options.orthogonal:
            weights = layer_weights(self._networks["generator"])
            loss = loss + self.options.orthogonal * orthogonal_penalty(weights)
        if self.options.path_length and self.options.path_length_every == 1:
            penalty, metrics["path_length"] = self.path_length_penalty(batch)
            loss = loss + self.options.path_length * penalty
        return StepLoss(loss, metrics)

    def draw_batch(self, reals: RealBatch, rng: torch.Generator) -> StepBatch:
        """Draw the latents of all processes, and return this process's latents and real images."""
        options, count = self.options, len(reals.images) * self._distributed.world

        def part(rows: Tensor) -> Tensor:
            return self._distributed.part(rows).to(self._device, non_blocking=True)

        z = part(torch.randn(count, self.z_dim, generator=rng))
        mix = between = None
        if options.style_mixing:
            generator = cast("StyleGenerator", self._networks["generator"])
            other = part(torch.randn(count, self.z_dim, generator=rng))
            layers = generator.layers_at(self._growth)
            crossover = torch.randint(1, layers, (count,), generator=rng)
            mixes = torch.rand(count, generator=rng) < options.style_mixing
            mix = StyleMix(other, part(torch.where(mixes, crossover, generator.layers)))
        if options.gradient_penalty:
            between = part(torch.rand(count, generator=rng))
        return StepBatch(reals, z, mix, between)

    # Images and logits.

    def _generate(self, generator: nn.Module, batch: StepBatch) -> Tensor:
        """Generate images ``[N, C, H, W]`` from the latents of a batch."""
        styles: dict[str, Any] = {}
        if batch.mix is not None:
            styles["mix"] = batch.mix
        if self._growth is not None:
            styles["growth"] = self._growth
        images: Tensor = generator(batch.z, batch.reals.condition, **styles)
        return images

    def _logits(
        self, discriminator: nn.Module, images: Tensor, class_index: Tensor | None
    ) -> Tensor:
        """Return the logits of images: ``[N]``, or ``[N, K]`` of a discriminator with K of each."""
        growth = () if self._growth is None else (self._growth,)
        logits: Tensor = discriminator(images, class_index, *growth)
        return logits

    def _other_negatives(
        self,
        images: Tensor,  # noqa: ARG002 - for games with captions
        reals: RealBatch,  # noqa: ARG002
    ) -> Mapping[str, Tensor]:
        """Return logits ``[N]`` of more images that the discriminator is to reject, by name."""
        return {}

    def _discriminator_input(self, images: Tensor) -> Tensor:
        """Apply augmentation and instance noise to images for the discriminator."""
        images = self.augment(images)
        if self._noise:
            images = images + self._noise * torch.randn_like(images)
        return images

    def _fakes(self, batch: StepBatch) -> Tensor:
        """Generate images for the discriminator, without gradients."""
        with torch.no_grad():
            return self._generate(self._networks["generator"], batch)

    # Penalties.

    def _lazy_step(
        self,
        player: str,
        batch: StepBatch,
        number: int,
        loss_of: Callable[[StepBatch], StepLoss],
    ) -> dict[str, Tensor]:
        """Take the step for a player's lazy penalties, if it is due after its step `number`.

        Returns the metrics of `loss_of`, which calls the networks themselves.
        """
        every = self.options.lazy_interval(player)
        if every == 1 or number % every:
            return {}
        metrics = self._players.descend(player, batch.parts(self._parts), loss_of, unwrapped=True)
        # The log has the gradient of the main step.
        del metrics[f"gradient_{player}"]
        return metrics

    def _lazy_penalty(self, batch: StepBatch) -> StepLoss:
        """Return the discriminator's penalties for all turns until the next ones."""
        fake = None
        if self.options.gradient_penalty or self.options.r2:
            with self._players.autocast():
                fake = self._fakes(batch).float()
        penalty = self._penalty(batch.reals, fake, batch.between)
        return StepLoss(penalty * self.options.penalty_every, {"penalty": penalty.detach()})

    def _lazy_path_length(self, batch: StepBatch) -> StepLoss:
        """Return the generator's penalty for all of its steps until the next one."""
        penalty, mean = self.path_length_penalty(batch)
        weight = self.options.path_length * self.options.path_length_every
        return StepLoss(penalty * weight, {"path_length": mean})

    def _penalty(self, reals: RealBatch, fake: Tensor | None, between: Tensor | None) -> Tensor:
        """Return the weighted sum of the discriminator's penalties.

        Their gradients are those at the images before augmentation, as in the official
        implementations of ADA and DiffAugment. Computed in float32, because gradients of gradients
        are small.
        """
        options, penalty = self.options, torch.zeros((), device=self._device)

        # The network itself, because its distributed wrapper expects a gradient for each weight in
        # a step, but a penalty has none for some, such as the last bias.
        discriminator = self._networks["discriminator"]

        def critic(images: Tensor) -> Tensor:
            shown = self._discriminator_input(images)
            return self._logits(discriminator, shown, reals.condition)

        if between is not None and fake is not None:
            steepness = gradient_penalty(critic, reals.images, fake, between)
            penalty = penalty + options.gradient_penalty * steepness
        if options.r1:
            penalty = penalty + options.r1 * zero_centered_penalty(critic, reals.images)
        if options.r2 and fake is not None:
            penalty = penalty + options.r2 * zero_centered_penalty(critic, fake)
        return penalty

    def path_length_penalty(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Return the mean squared deviation of path lengths from their running mean, and the mean.

        Computed on half of the batch, as in the official implementation, to save memory.
        """
        half = batch.first(max(len(batch.z) // 2, 1))
        # Call the network itself, not its distributed wrapper: if weights are unused, the wrapper
        # copies its outputs, and the images would not depend on the copy of w.
        images, w = self._networks["generator"](
            half.z, half.reals.condition, half.mix, self._growth, with_styles=True
        )
        lengths = path_lengths(images, w, torch.randn_like(images))
        mean = self._distributed.mean(lengths.detach().mean())
        self._mean_path_length = self._mean_path_length.lerp(mean, PATH_LENGTH_RATE)
        return (lengths - self._mean_path_length).square().mean(), mean

    # Schedules.

    def _follow_schedules(
        self, batches: Sequence[RealBatch], images_seen: int
    ) -> Sequence[RealBatch]:
        """Apply all schedules, and return `batches` at the current resolution."""
        self._players.set_learning_rates(images_seen)
        noise, growing = self.options.instance_noise, self.options.growing
        self._noise = noise.at(images_seen) if noise else 0.0
        if growing:
            self._growth = growing.at(images_seen, self._shape.height)
            if self._growth:
                return [
                    reals._replace(images=match_growth(reals.images, self._growth))
                    for reals in batches
                ]
        return batches

    def _adapt(self, number: int, images: int) -> None:
        """Every few turns, adapt the augmentation to the sign of the real logits."""
        if (number + 1) % ADAPT_EVERY == 0:
            steps = ADAPT_EVERY * self.options.discriminator_steps
            sign = float(self._distributed.mean(self._real_signs / steps))
            self.augment.adapt(sign, images * ADAPT_EVERY)
            self._real_signs = torch.zeros_like(self._real_signs)

    # Samples.

    def sample(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        """Return images ``[N, C, H, W]`` in [-1, 1] of the averaged generator for latents `z`."""
        return self.sampler()(z, class_index)

    @torch.no_grad()
    def sampler(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return a function from latents and classes to images of the averaged generator.

        The function uses the current weights and can be called for many batches.
        """
        generator = self.average.eval()
        if has_batch_statistics(generator):
            # The same statistics as in the exported model. The running statistics belong to the
            # weights in training; with averaged weights, they give far too much contrast.
            draw = partial(seeds.draw, distribution=self._distribution)
            on_cpu = copy.deepcopy(generator).cpu()
            settle_spectral_norms(on_cpu)
            fitted = with_standing_statistics(
                on_cpu, self.z_dim, self.classes, draw, truncations=(1.0,)
            )

            @torch.no_grad()
            def served(z: Tensor, class_index: Tensor | None) -> Tensor:
                images: Tensor = fitted(z, class_index, torch.ones(len(z)))
                return images

            return served
        growth = {"growth": self._growth} if self._growth else {}
        size = (self._shape.height, self._shape.width)

        @torch.no_grad()
        def averaged(z: Tensor, class_index: Tensor | None) -> Tensor:
            if class_index is not None:
                class_index = class_index.to(self._device)
            images: Tensor = generator(z.to(self._device), class_index, **growth)
            if growth:
                # Images of growing networks are enlarged to full size.
                images = F.interpolate(images.float(), size, mode="nearest")
            return images.float().cpu()

        return averaged

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        augment = {"probability": self.augment.probability, "real_signs": self._real_signs}
        return {
            **self._players.state_dict(),
            "augment": augment,
            "mean_path_length": self._mean_path_length,
            "generator_steps": self._generator_steps,
            "balance": self.balance.state_dict() if self.balance else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._players.load_state_dict(state)
        self.augment.probability = state["augment"]["probability"]
        self._real_signs = state["augment"]["real_signs"]
        self._mean_path_length = state["mean_path_length"]
        self._generator_steps = state["generator_steps"]
        if self.balance:
            self.balance.load_state_dict(state["balance"])
