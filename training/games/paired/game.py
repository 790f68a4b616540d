"""The game of pix2pix: the generator translates an input image to its target.

Isola et al. 2017, arXiv:1611.07004. The discriminator is conditional: it gets the input together
with the output. The generator also minimizes its distance to the target (equation 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.device import Precision
from training.distributed import DistributedContext
from training.games.image_tensors import image_tensor, input_tensors
from training.games.paired.options import PairedOptions
from training.games.players import Players, StepLoss
from training.games.tasks.task import TaskInputs
from training.losses import adversarial_loss, separation
from training.networks.pretrained.perceptual import PerceptualFeatures, feature_distance
from training.penalties import zero_centered_penalty
from training.recipe.schema import Recipe


class PairBatch(NamedTuple):
    """Inputs ``[N, C, h, w]`` and targets ``[N, C, H, W]``, both in [-1, 1].

    `mask` ``[N, 1, h, w]`` is 1 where pixels of the input are missing, else 0.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(cls, inputs: TaskInputs, targets: Tensor) -> PairBatch:
        """Convert inputs and targets ``[N, C, H, W]`` from uint8."""
        image, mask = input_tensors(inputs)
        return cls(image, image_tensor(targets), mask)

    def parts(self, count: int) -> Iterator[PairBatch]:
        """Split the rows into `count` batches of equal size."""
        size = len(self.inputs) // count
        for start in range(0, size * count, size):
            rows = slice(start, start + size)
            yield PairBatch(
                self.inputs[rows],
                self.targets[rows],
                None if self.mask is None else self.mask[rows],
            )


class Paired:
    """The players, and the generator's moving average.

    Metrics of a turn, each a scalar tensor: the metrics of `NoiseToImage`, where `loss_generator`
    is the adversarial part of the generator's objective, and the distances `l1` and `features` to
    the target. While the generator is trained alone, the adversarial metrics are absent.
    """

    batches_per_turn = 1

    def __init__(
        self,
        recipe: Recipe,
        options: PairedOptions,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        generator, discriminator = recipe.build_generator(), recipe.build_discriminator()
        self.options = options
        self.task = options.task
        self.loss = adversarial_loss(options.loss, options.real_target)
        self._device, self._distributed = device, distributed
        self._parts = recipe.train.accumulate
        self._players = Players(recipe, generator, discriminator, device, precision, distributed)
        self._G, self._D = self._players.wrapped.values()
        self._features = PerceptualFeatures().to(device) if options.features else None

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The networks with weights, by name."""
        return self._players.weights

    @property
    def average(self) -> nn.Module:
        """The generator's moving average, which is exported."""
        return self._players.average

    def turn(
        self,
        batches: Sequence[PairBatch],
        rng: torch.Generator,  # noqa: ARG002 - no random numbers are needed
        number: int,  # noqa: ARG002
        images_seen: int,
    ) -> Mapping[str, Tensor]:
        """Train the discriminator, then the generator; return the metrics."""
        self._players.set_learning_rates(images_seen)
        (pairs,) = batches
        metrics: dict[str, Tensor] = {}
        alone = images_seen < self.options.alone_images
        if not alone:
            metrics |= self._players.descend(
                "discriminator", pairs.parts(self._parts), self.discriminator_loss
            )
        if self._players.trains_generator(images_seen):
            with self._players.fixed("discriminator"):
                metrics |= self._players.descend(
                    "generator",
                    pairs.parts(self._parts),
                    lambda part: self.generator_loss(part, alone=alone),
                )
        self._players.update_average(len(pairs.inputs) * self._distributed.world, images_seen)
        return metrics

    def discriminator_loss(self, pairs: PairBatch) -> StepLoss:
        """Return the discriminator's loss of real and generated targets, with their inputs."""
        with self._players.autocast():
            inputs = self.task.network_input(pairs.inputs, pairs.mask)
            with torch.no_grad():
                outputs = self._players.networks["generator"](inputs)
                outputs = self._restore_known_pixels(outputs, pairs)
            real = self._discriminator_input(self.task.network_target(pairs.targets), inputs)
            fake = self._discriminator_input(outputs, inputs)
            real_logits, fake_logits = self._D(real).float(), self._D(fake).float()
        loss = self.loss.discriminator(real_logits, fake_logits)
        metrics = {
            "loss_discriminator": loss.detach(),
            "real_score": self.loss.score(real_logits),
            "fake_score": self.loss.score(fake_logits),
            "separation": separation(_by_image(real_logits), _by_image(fake_logits)),
        }
        if self.options.r1:
            penalty = zero_centered_penalty(
                lambda images: self._D(images).sum((1, 2, 3)), real.float()
            )
            metrics["penalty"] = penalty.detach()
            loss = loss + self.options.r1 * penalty
        return StepLoss(loss, metrics)

    def generator_loss(self, pairs: PairBatch, *, alone: bool) -> StepLoss:
        """Return the generator's loss (equation 4); if `alone`, without the adversarial part."""
        options = self.options
        with self._players.autocast():
            inputs = self.task.network_input(pairs.inputs, pairs.mask)
            outputs = self._restore_known_pixels(self._G(inputs), pairs).float()
        targets = self.task.network_target(pairs.targets)
        l1 = F.l1_loss(outputs, targets)
        loss, metrics = options.l1 * l1, {"l1": l1.detach()}
        if not alone:
            discriminator = self._players.networks["discriminator"]
            with self._players.autocast():
                fake_logits = discriminator(self._discriminator_input(outputs, inputs)).float()
                real_logits = fake_logits.detach()
                if self.loss.generator_sees_real:
                    with torch.no_grad():
                        real_logits = discriminator(
                            self._discriminator_input(targets, inputs)
                        ).float()
            adversarial = self.loss.generator(real_logits, fake_logits)
            metrics["loss_generator"] = adversarial.detach()
            loss = loss + options.adversarial * adversarial
        if self._features is not None and not alone:
            images = self.task.to_image(outputs, pairs.inputs, pairs.mask)
            with self._players.autocast():
                distance = feature_distance(self._features, images, pairs.targets)
            metrics["features"] = distance.detach()
            loss = loss + options.features * distance
        return StepLoss(loss, metrics)

    def _restore_known_pixels(self, outputs: Tensor, pairs: PairBatch) -> Tensor:
        """Copy the known pixels of the inputs to the outputs."""
        return self.task.restore_known_pixels(outputs, pairs.inputs, pairs.mask)

    def _discriminator_input(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs, preceded by their inputs if the discriminator is conditional."""
        return torch.cat([inputs, outputs], 1) if self.options.conditional else outputs

    @torch.no_grad()
    def translate(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the images ``[N, C, H, W]`` of the averaged generator for `inputs`."""
        average = self.average.eval()
        outputs = average(self.task.network_input(inputs, mask).to(self._device)).cpu()
        return self.task.to_image(outputs, inputs, mask)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        return self._players.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._players.load_state_dict(state)


def _by_image(logits: Tensor) -> Tensor:
    """Return the mean logit ``[N]`` of each image's patches ``[N, 1, h, w]``."""
    return logits.detach().mean((1, 2, 3))
