"""The game of CycleGAN: two sets of pictures, and a generator from each to the other.

Zhu et al. 2017, arXiv:1703.10593. There are no pairs: a picture taken across and back again should
be the one that it was (equation 2), and one that is of the other set already should stay as it is
(section 5.2). Section 4 has the history of pictures that the discriminators see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.device import Precision
from training.distributed import DistributedContext
from training.games.options import UnpairedOptions
from training.games.players import Outcome, Players
from training.losses import adversarial_loss, separation
from training.networks.image.cycle import CycleOutputs
from training.recipe.schema import Recipe


class Sides(NamedTuple):
    """Pictures ``[N, C, H, W]`` in [-1, 1] of both sets; none belongs to another."""

    source: Tensor
    target: Tensor

    def parts(self, count: int) -> Iterator[Sides]:
        """Cut the rows into `count` pieces of one size."""
        size = len(self.source) // count
        for start in range(0, size * count, size):
            rows = slice(start, start + size)
            yield Sides(self.source[rows], self.target[rows])


class Judges(nn.Module):
    """A discriminator for each side; ``[N, C, H, W]`` of both to logits of patches of both."""

    def __init__(self, of_source: nn.Module, of_target: nn.Module) -> None:
        super().__init__()
        self.of_source, self.of_target = of_source, of_target

    def forward(self, *seen: Sides) -> list[Sides]:
        return [Sides(self.of_source(each.source), self.of_target(each.target)) for each in seen]


class History:
    """Pictures that were made before: half of those that are shown are older ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.pictures: list[Tensor] = []

    def exchange(self, made: Tensor, rng: torch.Generator) -> Tensor:
        """Return a batch in which pictures that were made now are, by chance, older ones."""
        shown = []
        for picture in made:
            if len(self.pictures) < self._size:
                self.pictures.append(picture)
                shown.append(picture)
            elif torch.rand((), generator=rng) < 0.5:
                at = int(torch.randint(self._size, (), generator=rng))
                shown.append(self.pictures[at])
                self.pictures[at] = picture
            else:
                shown.append(picture)
        return torch.stack(shown)


class Unpaired:
    """The players, and the generators' moving `average`, which is exported.

    Signs of a turn, each a scalar tensor: those of `NoiseToImage`, each the mean of both sides, and
    `cycle` and `identity`, the mean absolute errors.
    """

    batches_per_turn = 1

    def __init__(
        self, recipe: Recipe, device: torch.device, precision: Precision, share: DistributedContext
    ) -> None:
        assert isinstance(recipe.game, UnpairedOptions)  # noqa: S101 - the trainer sees to it
        torch.manual_seed(recipe.train.seed)
        self.options = recipe.game
        self.loss = adversarial_loss(recipe.game.loss, recipe.game.real_target)
        generator = recipe.build_generator()
        discriminator = Judges(recipe.build_discriminator(), recipe.build_discriminator())
        self._share, self._parts = share, recipe.train.accumulate
        self._players = Players(recipe, generator, discriminator, device, precision, share)
        self._G, self._D = self._players.wrapped.values()
        self._histories = [History(recipe.game.history) for _ in Sides._fields]

    @property
    def average(self) -> nn.Module:
        """The generators' moving average, which is exported."""
        return self._players.average

    def turn(
        self,
        batches: Sequence[Sides],
        rng: torch.Generator,
        number: int,  # noqa: ARG002 - all turns are alike
        images_seen: int,
    ) -> Mapping[str, Tensor]:
        """Play a turn on this process's pictures: the generators, then the discriminators."""
        self._players.pace(images_seen)
        (sides,) = batches
        made: list[Sides] = []
        discriminator = self._players.networks["discriminator"].requires_grad_(False)
        signs = self._players.descend(
            "generator", sides.parts(self._parts), lambda part: self._translate(part, made)
        )
        discriminator.requires_grad_(True)
        shown = iter([self._from_history(each, rng) for each in made])
        signs |= self._players.descend(
            "discriminator",
            sides.parts(self._parts),
            lambda part: self._discriminator_loss(part, next(shown)),
        )
        self._players.update_average(len(sides.source) * self._share.world, images_seen)
        return signs

    def _from_history(self, made: Sides, rng: torch.Generator) -> Sides:
        return Sides(
            *(h.exchange(each, rng) for h, each in zip(self._histories, made, strict=True))
        )

    def _translate(self, real: Sides, made: list[Sides]) -> Outcome:
        """Return the generators' loss, and note what they made."""
        options = self.options
        with self._players.autocast():
            across: CycleOutputs = self._G(
                real.source, real.target, with_identity=options.identity > 0
            )
            fakes = Sides(across.fake_source, across.fake_target)
            judges = self._players.networks["discriminator"]
            (fake_logits,) = judges(fakes)
            real_logits = fake_logits
            if self.loss.generator_sees_real:
                with torch.no_grad():
                    (real_logits,) = judges(real)
        made.append(Sides(across.fake_source.detach().float(), across.fake_target.detach().float()))
        adversarial = self.loss.generator(
            real_logits.source.detach().float(), fake_logits.source.float()
        ) + self.loss.generator(real_logits.target.detach().float(), fake_logits.target.float())
        cycle = F.l1_loss(across.cycled_source.float(), real.source)
        cycle = cycle + F.l1_loss(across.cycled_target.float(), real.target)
        signs = {"loss_generator": adversarial.detach() / 2, "cycle": cycle.detach() / 2}
        loss = adversarial + options.cycle * cycle
        if across.identity_source is not None and across.identity_target is not None:
            kept = F.l1_loss(across.identity_source.float(), real.source)
            kept = kept + F.l1_loss(across.identity_target.float(), real.target)
            signs["identity"] = kept.detach() / 2
            loss = loss + options.identity * kept
        return Outcome(loss, signs)

    def _discriminator_loss(self, real: Sides, fake: Sides) -> Outcome:
        """Return the discriminators' loss."""
        with self._players.autocast():
            real_logits, fake_logits = self._D(real, fake)
        losses, scores = [], []
        for of_real, of_fake in zip(real_logits, fake_logits, strict=True):
            r, f = of_real.float(), of_fake.float()
            losses.append(self.loss.discriminator(r, f))
            of_pictures = r.mean((1, 2, 3)), f.mean((1, 2, 3))
            scores.append(torch.stack([r.mean(), f.mean(), separation(*of_pictures)]).detach())
        loss = torch.stack(losses).sum()
        real_score, fake_score, apart = torch.stack(scores).mean(0)
        signs = {
            "loss_discriminator": loss.detach() / 2,
            "real_score": real_score,
            "fake_score": fake_score,
            "separation": apart,
        }
        return Outcome(loss, signs)

    def made_of(self, pictures: Sides) -> Sides:
        """Return what the averaged generators make: of the source the target, and back."""
        there, back = self.options.directions
        return Sides(
            self.across(pictures.target, back),
            self.across(pictures.source, there),
        )

    @torch.no_grad()
    def across(self, pictures: Tensor, direction: str) -> Tensor:
        """Return what the averaged generator of a direction makes of ``[N, C, H, W]``."""
        average = self._players.average.eval()
        device = next(average.parameters()).device
        generator = average[direction]  # type: ignore[index]
        made: Tensor = generator(pictures.to(device)).float().cpu()
        return made

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        histories = [[p.cpu() for p in each.pictures] for each in self._histories]
        return self._players.state_dict() | {"histories": histories}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._players.load_state_dict(state)
        device = next(self._players.average.parameters()).device
        for history, pictures in zip(self._histories, state["histories"], strict=True):
            history.pictures = [picture.to(device) for picture in pictures]
