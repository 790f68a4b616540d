"""The game of the original GAN: a generator makes pictures of noise, a discriminator judges.

Algorithm 1 of arXiv:1406.2661: k steps of the discriminator, then one of the generator. With
classes, both are told the class (arXiv:1411.1784): generated pictures are asked for the classes of
the real ones beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.augment import Augment
from training.device import Precision
from training.distributed import Share
from training.losses import adversarial_loss
from training.penalties import (
    clip_weights,
    gradient_penalty,
    layer_weights,
    orthogonal_penalty,
    zero_centred_penalty,
)
from training.recipe import Recipe

# Turns between two looks at whether the augmentation should be stronger, as ADA's authors have it.
ADAPT_EVERY = 4


class Reals(NamedTuple):
    """Real pictures ``[N, C, H, W]`` in [-1, 1], with their classes ``[N]`` where there are any."""

    images: Tensor
    class_index: Tensor | None = None


class NoiseToImage:
    """The players, their optimisers, and the generator's moving `average`, which is exported.

    Signs of a turn, each a scalar tensor: `loss_discriminator`, `loss_generator`, the mean scores
    `real_score` D(x) and `fake_score` D(G(z)) as the discriminator's step saw them (probabilities
    where the loss has them, else logits), and `penalty` where there is one.
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, precision: Precision, share: Share
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        generator = recipe.generator.build(recipe.shape, recipe.classes)
        discriminator = recipe.discriminator.build(recipe.shape, recipe.classes)
        for player in (generator, discriminator):
            # Convolutions run faster so, on CPUs and GPUs alike.
            player.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        self.options = recipe.game
        self.z_dim = recipe.generator.z_dim
        self.classes = recipe.classes
        self._loss = adversarial_loss(recipe.game.loss, recipe.game.real_target)
        self._share, self._device, self._precision = share, device, precision
        self._ema = recipe.ema
        self.augment = Augment(recipe.game.augment)
        self._real_signs = torch.zeros((), device=device)
        self._noise = 0.0
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self._G = share.wrap(generator, device)
        self._D = share.wrap(discriminator, device)
        self._networks = {"generator": generator, "discriminator": discriminator}
        self._optimizers = {
            "generator": recipe.optimizer.generator.build(generator),
            "discriminator": recipe.optimizer.discriminator.build(discriminator),
        }

    @property
    def batches_per_turn(self) -> int:
        """How many batches of real pictures one turn takes."""
        return self.options.discriminator_steps

    def turn(
        self, batches: Sequence[Reals], rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Play turn `number` on `batches`: this process's real pictures.

        `rng` draws for all processes; each takes its own part.
        """
        noise = self.options.instance_noise
        self._noise = noise.at(images_seen) if noise else 0.0
        signs: dict[str, Tensor] = {}
        for reals in batches:
            signs |= self._discriminator_step(reals, rng, number)
        signs |= self._generator_step(batches[-1], rng)
        images = len(batches[-1].images) * self._share.world * len(batches)
        self._update_average(images, images_seen)
        if self.augment.adapts:
            self._adapt(number, images)
            signs["augment_probability"] = torch.tensor(self.augment.probability)
        return signs

    def _discriminator_step(
        self, reals: Reals, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        z = self._latents(len(reals.images), rng)
        with self._autocast():
            with torch.no_grad():
                fake = self._networks["generator"](z, reals.class_index)
            real, fake = self._shown(reals.images), self._shown(fake)
            real_logits = self._D(real, reals.class_index)
            fake_logits = self._D(fake, reals.class_index)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        loss = self._loss.discriminator(real_logits, fake_logits)
        signs = {
            "loss_discriminator": loss.detach(),
            "real_score": self._score(real_logits),
            "fake_score": self._score(fake_logits),
        }
        if self._penalised and number % self.options.penalty_every == 0:
            penalty = self._penalty(Reals(real.float(), reals.class_index), fake.float(), rng)
            signs["penalty"] = penalty.detach()
            loss = loss + penalty * self.options.penalty_every
        if self.augment.adapts:
            self._real_signs = self._real_signs + real_logits.detach().sign().mean()
        self._descend("discriminator", loss)
        if self.options.clip_weights is not None:
            clip_weights(self._networks["discriminator"].parameters(), self.options.clip_weights)
        return signs

    def _generator_step(self, reals: Reals, rng: torch.Generator) -> dict[str, Tensor]:
        discriminator = self._networks["discriminator"]
        z = self._latents(len(reals.images), rng)
        # The gradient flows through D to G, and D's own is not wanted here.
        discriminator.requires_grad_(False)
        with self._autocast():
            fake = self._shown(self._G(z, reals.class_index))
            fake_logits = discriminator(fake, reals.class_index).float()
            real_logits = fake_logits.detach()
            if self._loss.generator_sees_real:
                real = self._shown(reals.images)
                real_logits = discriminator(real, reals.class_index).float()
        loss = self._loss.generator(real_logits, fake_logits)
        signs = {"loss_generator": loss.detach()}
        if self.options.orthogonal:
            weights = layer_weights(self._networks["generator"])
            loss = loss + self.options.orthogonal * orthogonal_penalty(weights)
        self._descend("generator", loss)
        discriminator.requires_grad_(True)
        return signs

    def _shown(self, images: Tensor) -> Tensor:
        """Return pictures as the discriminator is to see them: augmented, and with noise."""
        images = self.augment(images)
        if self._noise:
            images = images + self._noise * torch.randn_like(images)
        return images

    def _adapt(self, number: int, images: int) -> None:
        """Every few turns, hold what the discriminator says of real pictures against the target."""
        if (number + 1) % ADAPT_EVERY == 0:
            steps = ADAPT_EVERY * self.options.discriminator_steps
            sign = float(self._share.mean(self._real_signs / steps))
            self.augment.adapt(sign, images * ADAPT_EVERY)
            self._real_signs = torch.zeros_like(self._real_signs)

    @property
    def _penalised(self) -> bool:
        return bool(self.options.gradient_penalty or self.options.r1 or self.options.r2)

    def _penalty(self, reals: Reals, fake: Tensor, rng: torch.Generator) -> Tensor:
        """Sum the weighted penalties. In float32: gradients of gradients are small."""
        options, penalty = self.options, torch.zeros((), device=self._device)

        def critic(images: Tensor) -> Tensor:
            logits: Tensor = self._D(images, reals.class_index)
            return logits

        if options.gradient_penalty:
            mix = torch.rand(len(fake) * self._share.world, generator=rng)
            mix = self._share.part(mix).to(self._device)
            between = gradient_penalty(critic, reals.images, fake, mix)
            penalty = penalty + options.gradient_penalty * between
        if options.r1:
            penalty = penalty + options.r1 * zero_centred_penalty(critic, reals.images)
        if options.r2:
            penalty = penalty + options.r2 * zero_centred_penalty(critic, fake)
        return penalty

    def _score(self, logits: Tensor) -> Tensor:
        logits = logits.detach()
        return (logits.sigmoid() if self._loss.probabilistic else logits).mean()

    def _descend(self, player: str, loss: Tensor) -> None:
        optimizer = self._optimizers[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.options.clip_gradients is not None:
            weights = self._networks[player].parameters()
            torch.nn.utils.clip_grad_norm_(weights, self.options.clip_gradients)
        optimizer.step()

    def _latents(self, count: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(count * self._share.world, self.z_dim, generator=rng)
        return self._share.part(z).to(self._device, non_blocking=True)

    def _update_average(self, images: int, images_seen: int) -> None:
        half_life = max(min(self._ema.half_life_images, images_seen * self._ema.ramp_up), 1e-8)
        decay = 0.5 ** (images / half_life)
        with torch.no_grad():
            latest = self._networks["generator"].state_dict()
            for name, averaged in self.average.state_dict().items():
                if averaged.is_floating_point():
                    averaged.lerp_(latest[name], 1 - decay)
                else:
                    averaged.copy_(latest[name])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
        )

    @torch.no_grad()
    def sample(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        """Return what the averaged generator makes of latents: ``[N, C, H, W]`` in [-1, 1]."""
        generator = self.average.eval()
        if class_index is not None:
            class_index = class_index.to(self._device)
        images: Tensor = generator(z.to(self._device), class_index)
        return images.float().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        networks = {name: network.state_dict() for name, network in self._networks.items()}
        optimizers = {name: o.state_dict() for name, o in self._optimizers.items()}
        augment = {"probability": self.augment.probability, "real_signs": self._real_signs}
        return {
            "networks": networks,
            "optimizers": optimizers,
            "average": self.average.state_dict(),
            "augment": augment,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, network in self._networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average.load_state_dict(state["average"])
        self.augment.probability = state["augment"]["probability"]
        self._real_signs = state["augment"]["real_signs"]
