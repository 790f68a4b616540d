"""The two players of a game: their networks, their optimizers and the optimizer step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.device import Precision
from training.distributed import DistributedContext
from training.fine_tuning.freezing import freeze_lowest
from training.recipe.schema import Recipe

Batch = TypeVar("Batch")


class StepLoss(NamedTuple):
    """The loss of a step, and its metrics for the log."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Players:
    """A generator, a discriminator, and the moving `average` of the generator, which is exported.

    `networks` are the modules themselves. `wrapped` are the modules to call if gradients are
    needed; they differ from `networks` in distributed training. A game with several generators or
    discriminators combines them into one module.
    """

    def __init__(
        self,
        recipe: Recipe,
        generator: nn.Module,
        discriminator: nn.Module,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
        *,
        unused_weights: bool = False,
    ) -> None:
        """Move both players to `device`.

        Set `unused_weights` if a turn may leave weights unused.
        """
        for player in (generator, discriminator):
            # The faster layout for convolutions, on CPUs and GPUs.
            player.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(generator).requires_grad_(False)
        if recipe.fine_tune:
            # Before the distributed wrapper, which exchanges the gradients of trained weights.
            freeze_lowest(discriminator, recipe.fine_tune.freeze_discriminator)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.wrapped = {
            name: distributed.wrap(network, device, unused_weights=unused_weights)
            for name, network in self.networks.items()
        }
        self.optimizers = {
            "generator": recipe.optimizer.generator.build(
                generator, recipe.game.lazy_interval("generator")
            ),
            "discriminator": recipe.optimizer.discriminator.build(
                discriminator, recipe.game.lazy_interval("discriminator")
            ),
        }
        self._learning_rates = {
            name: optimizer.defaults["lr"] for name, optimizer in self.optimizers.items()
        }
        self._distributed, self._device, self._precision = distributed, device, precision
        self._ema = recipe.ema
        self._max_norm = recipe.game.clip_gradients
        self._parts = recipe.train.accumulate
        self._decay_from, self._images = recipe.optimizer.decay_from, recipe.train.images
        self._turn_images = recipe.train.batch * recipe.game.batches_per_turn
        fine_tune = recipe.fine_tune
        self._warm_up = fine_tune.warm_up_images if fine_tune else 0
        # Images after which each player is trained.
        self._starts = {
            "generator": fine_tune.freeze_generator_images if fine_tune else 0,
            "discriminator": 0,
        }

    @property
    def weights(self) -> dict[str, nn.Module]:
        """The networks with weights: `generator`, `discriminator`, and the `average`."""
        return {**self.networks, "average": self.average}

    def trains_generator(self, images_seen: int) -> bool:
        """Return whether the generator is trained after `images_seen` images, or still frozen."""
        return images_seen >= self._starts["generator"]

    @contextmanager
    def fixed(self, player: str) -> Iterator[nn.Module]:
        """Context manager in which a player's weights need no gradients; yields its network."""
        network = self.networks[player]
        # Frozen weights stay without gradients afterwards.
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        for weight in trained:
            weight.requires_grad_(False)
        yield network
        for weight in trained:
            weight.requires_grad_(True)

    def descend(
        self,
        player: str,
        parts: Iterable[Batch],
        loss_of: Callable[[Batch], StepLoss],
        *,
        unwrapped: bool = False,
    ) -> dict[str, Tensor]:
        """Take one optimizer step along the mean gradient of a player's loss over `parts`.

        Set `unwrapped` if the loss calls the network itself, not the wrapped one, which averages
        the gradients over the processes. Returns the mean metrics, and `gradient_<player>`, the
        norm of the gradient before clipping.
        """
        optimizer, wrapped = self.optimizers[player], self.wrapped[player]
        optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            with self._distributed.sync_gradients(wrapped, last=i == self._parts - 1):
                loss, part_metrics = loss_of(part)
                (loss / self._parts).backward()  # type: ignore[no-untyped-call]
            for name, value in part_metrics.items():
                metrics[name] = metrics.get(name, 0.0) + value / self._parts
        weights = list(self.networks[player].parameters())
        if unwrapped:
            for weight in weights:
                if weight.grad is not None:
                    self._distributed.mean(weight.grad)
        norm = get_total_norm([w.grad for w in weights if w.grad is not None])
        metrics[f"gradient_{player}"] = norm
        if self._max_norm is not None:
            clip_grads_with_norm_(weights, self._max_norm, norm)
        optimizer.step()
        return metrics

    def set_learning_rates(self, images_seen: int) -> None:
        """Update learning rates that rise or decay, after `images_seen` images."""
        if self._decay_from is None and not self._warm_up:
            return
        factor = 1.0
        if self._decay_from is not None:
            done = images_seen / self._images
            factor = min((1 - done) / (1 - self._decay_from), 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rates[name] * factor * self._warmth(name, images_seen)

    def _warmth(self, player: str, images_seen: int) -> float:
        """Return the fraction of the learning rate that the warm-up has reached at this turn."""
        if not self._warm_up:
            return 1.0
        trained = images_seen - self._starts[player] + self._turn_images
        return min(max(trained, 0) / self._warm_up, 1.0)

    def update_average(self, images: int, images_seen: int) -> None:
        """Update the moving average of the generator after a step on `images` images.

        It does not change while the generator is frozen.
        """
        if not self.trains_generator(images_seen):
            return
        images_seen -= self._starts["generator"]
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
        """Return the autocast context of the run's precision."""
        return torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; other entries of `state` are ignored."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            # The state also contains the options of the time when it was saved, such as the
            # learning rate, but a resumed run may override them.
            for group in optimizer.param_groups:
                group.update(optimizer.defaults)
        self.average.load_state_dict(state["average"])
