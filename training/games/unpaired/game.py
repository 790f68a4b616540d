"""The game of CycleGAN: translation between two sets of images, with a generator per direction.

Zhu et al. 2017, arXiv:1703.10593. An image translated to the other set and back should equal the
original (cycle consistency, equation 2), and an image of the target set should not change (identity
loss, section 5.2). The discriminators are also shown earlier generated images (section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.device import Precision
from training.distributed import DistributedContext
from training.fine_tuning.freezing import Layer, layers_from_image
from training.games.players import Players, StepLoss
from training.games.unpaired.options import UnpairedOptions
from training.losses import adversarial_loss, separation
from training.networks.image.cycle import CycleOutputs
from training.recipe.schema import Recipe


class Sides(NamedTuple):
    """Unpaired images ``[N, C, H, W]`` in [-1, 1] of both sets."""

    source: Tensor
    target: Tensor

    def parts(self, count: int) -> Iterator[Sides]:
        """Split the rows into `count` batches of equal size."""
        size = len(self.source) // count
        for start in range(0, size * count, size):
            rows = slice(start, start + size)
            yield Sides(self.source[rows], self.target[rows])


class TwoDiscriminators(nn.Module):
    """One discriminator per set. Maps images ``[N, C, H, W]`` to patch logits ``[N, 1, h, w]``."""

    def __init__(self, of_source: nn.Module, of_target: nn.Module) -> None:
        super().__init__()
        self.of_source, self.of_target = of_source, of_target

    def forward(self, *batches: Sides) -> list[Sides]:
        return [
            Sides(self.of_source(batch.source), self.of_target(batch.target)) for batch in batches
        ]


@layers_from_image.register
def _layers_of_both(discriminator: TwoDiscriminators) -> list[Layer]:
    """Return the layers of both discriminators, in pairs."""
    sides = [layers_from_image(each) for each in discriminator.children()]
    return [[*of_source, *of_target] for of_source, of_target in zip(*sides, strict=True)]


class History:
    """A buffer of generated images. About half of each batch is replaced by older images."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Store new images, and return the batch with about half of them replaced by older ones."""
        shown = []
        for image in images:
            if len(self.images) < self._size:
                self.images.append(image)
                shown.append(image)
            elif torch.rand((), generator=rng) < 0.5:
                index = int(torch.randint(self._size, (), generator=rng))
                shown.append(self.images[index])
                self.images[index] = image
            else:
                shown.append(image)
        return torch.stack(shown)


class Unpaired:
    """The players, and the generators' moving average.

    Metrics of a turn, each a scalar tensor: the metrics of `NoiseToImage`, averaged over both sets,
    and the mean absolute errors `cycle` and `identity`.
    """

    batches_per_turn = 1

    def __init__(
        self,
        recipe: Recipe,
        options: UnpairedOptions,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        self.options = options
        self.loss = adversarial_loss(options.loss, options.real_target)
        generator = recipe.build_generator()
        discriminator = TwoDiscriminators(
            recipe.build_discriminator(), recipe.build_discriminator()
        )
        self._distributed, self._parts = distributed, recipe.train.accumulate
        self._players = Players(recipe, generator, discriminator, device, precision, distributed)
        self._G, self._D = self._players.wrapped.values()
        self._histories = [History(options.history) for _ in Sides._fields]

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The networks with weights, by name."""
        return self._players.weights

    @property
    def average(self) -> nn.Module:
        """The generators' moving average, which is exported."""
        return self._players.average

    def turn(
        self,
        batches: Sequence[Sides],
        rng: torch.Generator,
        number: int,  # noqa: ARG002
        images_seen: int,
    ) -> Mapping[str, Tensor]:
        """Train the generators, then the discriminators on the generated images."""
        self._players.set_learning_rates(images_seen)
        (sides,) = batches
        generated: list[Sides] = []
        metrics: dict[str, Tensor] = {}
        if self._players.trains_generator(images_seen):
            with self._players.fixed("discriminator"):
                metrics |= self._players.descend(
                    "generator",
                    sides.parts(self._parts),
                    lambda part: self.generator_loss(part, generated),
                )
        else:
            with torch.no_grad():
                for part in sides.parts(self._parts):
                    self.generator_loss(part, generated)
        fakes = iter([self._from_history(part, rng) for part in generated])
        metrics |= self._players.descend(
            "discriminator",
            sides.parts(self._parts),
            lambda part: self.discriminator_loss(part, next(fakes)),
        )
        self._players.update_average(len(sides.source) * self._distributed.world, images_seen)
        return metrics

    def _from_history(self, generated: Sides, rng: torch.Generator) -> Sides:
        return Sides(
            *(
                history.exchange(images, rng)
                for history, images in zip(self._histories, generated, strict=True)
            )
        )

    def generator_loss(self, real: Sides, generated: list[Sides]) -> StepLoss:
        """Return the generators' loss (equation 3), and append their images to `generated`."""
        options = self.options
        with self._players.autocast():
            outputs: CycleOutputs = self._G(
                real.source, real.target, with_identity=options.identity > 0
            )
            fakes = Sides(outputs.fake_source, outputs.fake_target)
            discriminators = self._players.networks["discriminator"]
            (fake_logits,) = discriminators(fakes)
            real_logits = fake_logits
            if self.loss.generator_sees_real:
                with torch.no_grad():
                    (real_logits,) = discriminators(real)
        generated.append(
            Sides(outputs.fake_source.detach().float(), outputs.fake_target.detach().float())
        )
        adversarial = self.loss.generator(
            real_logits.source.detach().float(), fake_logits.source.float()
        ) + self.loss.generator(real_logits.target.detach().float(), fake_logits.target.float())
        cycle = F.l1_loss(outputs.cycled_source.float(), real.source)
        cycle = cycle + F.l1_loss(outputs.cycled_target.float(), real.target)
        metrics = {"loss_generator": adversarial.detach() / 2, "cycle": cycle.detach() / 2}
        loss = adversarial + options.cycle * cycle
        if outputs.identity_source is not None and outputs.identity_target is not None:
            identity = F.l1_loss(outputs.identity_source.float(), real.source)
            identity = identity + F.l1_loss(outputs.identity_target.float(), real.target)
            metrics["identity"] = identity.detach() / 2
            loss = loss + options.identity * identity
        return StepLoss(loss, metrics)

    def discriminator_loss(self, real: Sides, fake: Sides) -> StepLoss:
        """Return the sum of both discriminators' losses."""
        with self._players.autocast():
            real_logits, fake_logits = self._D(real, fake)
        losses, scores = [], []
        for real_side, fake_side in zip(real_logits, fake_logits, strict=True):
            r, f = real_side.float(), fake_side.float()
            losses.append(self.loss.discriminator(r, f))
            by_image = r.mean((1, 2, 3)), f.mean((1, 2, 3))
            scores.append(torch.stack([r.mean(), f.mean(), separation(*by_image)]).detach())
        loss = torch.stack(losses).sum()
        real_score, fake_score, separated = torch.stack(scores).mean(0)
        metrics = {
            "loss_discriminator": loss.detach() / 2,
            "real_score": real_score,
            "fake_score": fake_score,
            "separation": separated,
        }
        return StepLoss(loss, metrics)

    def translate_both(self, images: Sides) -> Sides:
        """Translate both sets with the averaged generators.

        `source` of the result holds the translated targets, and `target` the translated sources.
        """
        forward, back = self.options.directions
        return Sides(
            source=self.translate(images.target, back),
            target=self.translate(images.source, forward),
        )

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str) -> Tensor:
        """Translate images ``[N, C, H, W]`` with the averaged generator of a direction."""
        average = self._players.average.eval()
        device = next(average.parameters()).device
        generator = average[direction]  # type: ignore[index]
        translated: Tensor = generator(images.to(device)).float().cpu()
        return translated

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        histories = [[image.cpu() for image in each.images] for each in self._histories]
        return self._players.state_dict() | {"histories": histories}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._players.load_state_dict(state)
        device = next(self._players.average.parameters()).device
        for history, images in zip(self._histories, state["histories"], strict=True):
            history.images = [image.to(device) for image in images]
