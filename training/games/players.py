"""The players of a game: their networks, optimisers and averages, and how one of them moves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.device import Precision
from training.distributed import DistributedContext
from training.recipe.schema import Recipe

StepBatch = TypeVar("StepBatch")


class Outcome(NamedTuple):
    """A loss to descend, and what the user is told of it."""

    loss: Tensor
    signs: dict[str, Tensor]


class Players:
    """A generator and a discriminator, and the generator's moving `average`, which is exported.

    `networks` are the players themselves, `wrapped` what is called where gradients flow: the two
    differ where several processes share a run. Where a game has several generators or
    discriminators, they are parts of one module each.
    """

    def __init__(
        self,
        recipe: Recipe,
        generator: nn.Module,
        discriminator: nn.Module,
        device: torch.device,
        precision: Precision,
        share: DistributedContext,
        *,
        some_idle: bool = False,
    ) -> None:
        """Take both players to `device`. `some_idle`: not all weights are used at every turn."""
        for player in (generator, discriminator):
            # Convolutions run faster so, on CPUs and GPUs alike.
            player.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.wrapped = {
            name: share.wrap(network, device, some_idle=some_idle)
            for name, network in self.networks.items()
        }
        self.optimizers = {
            "generator": recipe.optimizer.generator.build(generator),
            "discriminator": recipe.optimizer.discriminator.build(discriminator),
        }
        self._rates = {
            "generator": recipe.optimizer.generator.learning_rate,
            "discriminator": recipe.optimizer.discriminator.learning_rate,
        }
        self._share, self._device, self._precision = share, device, precision
        self._ema = recipe.ema
        self._clip = recipe.game.clip_gradients
        self._parts = recipe.train.accumulate
        self._decay, self._images = recipe.optimizer.decay_from, recipe.train.images

    def descend(
        self, player: str, hands: Iterable[StepBatch], loss_of: Callable[[StepBatch], Outcome]
    ) -> dict[str, Tensor]:
        """Move a player down the mean gradient of its loss over the parts of a hand."""
        optimizer, wrapped = self.optimizers[player], self.wrapped[player]
        optimizer.zero_grad(set_to_none=True)
        signs: dict[str, Tensor] = {}
        for i, part in enumerate(hands):
            with self._share.gathering(wrapped, last=i == self._parts - 1):
                loss, seen = loss_of(part)
                (loss / self._parts).backward()  # type: ignore[no-untyped-call]
            for name, value in seen.items():
                signs[name] = signs.get(name, 0.0) + value / self._parts
        weights = list(self.networks[player].parameters())
        norm = get_total_norm([w.grad for w in weights if w.grad is not None])
        signs[f"gradient_{player}"] = norm
        if self._clip is not None:
            clip_grads_with_norm_(weights, self._clip, norm)
        optimizer.step()
        return signs

    def pace(self, images_seen: int) -> None:
        """Set the learning rates, where they fall towards the end of the run."""
        if self._decay is None:
            return
        done = images_seen / self._images
        left = min((1 - done) / (1 - self._decay), 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * left

    def update_average(self, images: int, images_seen: int) -> None:
        """Let the average follow the generator by `images` more."""
        half_life = max(min(self._ema.half_life_images, images_seen * self._ema.ramp_up), 1e-8)
        decay = 0.5 ** (images / half_life)
        with torch.no_grad():
            latest = self.networks["generator"].state_dict()
            for name, averaged in self.average.state_dict().items():
                if averaged.is_floating_point():
                    averaged.lerp_(latest[name], 1 - decay)
                else:
                    averaged.copy_(latest[name])

    def autocast(self) -> torch.autocast:
        """Compute in the run's precision within this context."""
        return torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next move depends on."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; what else the state holds is not looked at."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average.load_state_dict(state["average"])
