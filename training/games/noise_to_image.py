"""The game of the original GAN: a generator makes pictures of noise, a discriminator judges.

Algorithm 1 of arXiv:1406.2661: k steps of the discriminator, then one of the generator.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.device import Precision
from training.distributed import Share
from training.losses import LOSSES
from training.recipe import Recipe


class NoiseToImage:
    """The players, their optimisers, and the generator's moving `average`, which is exported.

    Signs of a turn, each a scalar tensor: `loss_discriminator`, `loss_generator`, and the mean
    probabilities `real_score` D(x) and `fake_score` D(G(z)) as the discriminator's step saw them.
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, precision: Precision, share: Share
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        generator = recipe.generator.build(recipe.shape)
        discriminator = recipe.discriminator.build(recipe.shape)
        for player in (generator, discriminator):
            # Convolutions run faster so, on CPUs and GPUs alike.
            player.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        self.options = recipe.game
        self.z_dim = recipe.generator.z_dim
        self._loss = LOSSES[recipe.game.loss]
        self._share, self._device, self._precision = share, device, precision
        self._ema = recipe.ema
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
        self, reals: Sequence[Tensor], rng: torch.Generator, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Play one turn on `reals`: this process's pictures ``[N, C, H, W]`` in [-1, 1].

        `rng` draws the latents of all processes; each takes its own part of them.
        """
        signs: dict[str, Tensor] = {}
        for real in reals:
            signs |= self._discriminator_step(real, self._latents(len(real), rng))
        signs |= self._generator_step(self._latents(len(reals[-1]), rng))
        self._update_average(len(reals[-1]) * self._share.world * len(reals), images_seen)
        return signs

    def _discriminator_step(self, real: Tensor, z: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            with torch.no_grad():
                fake = self._networks["generator"](z)
            real_logits = self._D(real)
            fake_logits = self._D(fake)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        loss = self._loss.discriminator(real_logits, fake_logits)
        self._descend("discriminator", loss)
        return {
            "loss_discriminator": loss.detach(),
            "real_score": real_logits.detach().sigmoid().mean(),
            "fake_score": fake_logits.detach().sigmoid().mean(),
        }

    def _generator_step(self, z: Tensor) -> dict[str, Tensor]:
        discriminator = self._networks["discriminator"]
        # The gradient flows through D to G, and D's own is not wanted here.
        discriminator.requires_grad_(False)
        with self._autocast():
            fake_logits = discriminator(self._G(z))
        loss = self._loss.generator(fake_logits.float())
        self._descend("generator", loss)
        discriminator.requires_grad_(True)
        return {"loss_generator": loss.detach()}

    def _descend(self, player: str, loss: Tensor) -> None:
        optimizer = self._optimizers[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
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
    def sample(self, z: Tensor) -> Tensor:
        """Return what the averaged generator makes of latents: ``[N, C, H, W]`` in [-1, 1]."""
        generator = self.average.eval()
        images: Tensor = generator(z.to(self._device))
        return images.float().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        networks = {name: network.state_dict() for name, network in self._networks.items()}
        optimizers = {name: o.state_dict() for name, o in self._optimizers.items()}
        average = self.average.state_dict()
        return {"networks": networks, "optimizers": optimizers, "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, network in self._networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average.load_state_dict(state["average"])
