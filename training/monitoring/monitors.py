"""What a run says about itself: the signs of an interval, whether it converges, what is wrong.

What is wrong is told by alarms. An alarm rings once when its trouble has lasted, says in one
sentence what is seen and what to change, and says when the trouble is over. Its criteria compare a
run with itself, with real pictures or with what a loss can be, since scores and gradients of one
recipe mean nothing in another.

Everything here is a function of the numbers in the run's log, in their order. A run that goes on
hears its own log again, and so remembers what it had heard.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.runtime.errors import UserError
from training.distributed import DistributedContext
from training.losses import AdversarialLoss

Numbers = Mapping[str, float]

_REMEDY = (
    "lower the learning rates (optimizer.generator.learning_rate, "
    "optimizer.discriminator.learning_rate), set game.clip_gradients=1, "
    "or train in float32 (device.precision=float32)"
)

# How many intervals must be without it before a trouble counts as over.
_CALM_INTERVALS = 2

# Scores of the two kinds of pictures are this near to 0.5 when neither player leads.
_NEAR_HALF = 0.1
# Pictures of the same latents have settled when they move less than this between two samplings,
# in units of the distance between two real pictures.
_SETTLED = 0.15
# Intervals over which a loss is looked at for a slope, and how many must then agree on a word.
_WINDOW = 10
_AGREE = 3


class TrainingDiverged(UserError):
    """A loss is not a number any more; the message says what to change."""

    exit_code = 1


class MetricWindow:
    """Running means of a game's signs.

    They are summed where they were computed, since reading a value waits for the device.
    """

    def __init__(self, share: DistributedContext) -> None:
        self._share = share
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, signs: Mapping[str, Tensor]) -> None:
        """Take in the signs of one turn."""
        for name, value in signs.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """Return the means over all processes since the last call, and begin anew.

        Raises TrainingDiverged when one of them is not finite.
        """
        means = {}
        for name, total in sorted(self._sums.items()):
            means[name] = float(self._share.mean(total / self._counts[name]))
        self._sums.clear()
        self._counts.clear()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingDiverged(f"{', '.join(broken)} became {means[broken[0]]}: {_REMEDY}")
        return means


def assert_finite(networks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise TrainingDiverged when a weight of one of the networks is not a number."""
    for name, weights in networks.items():
        for weight in weights.values():
            if not bool(torch.isfinite(weight).all()):
                raise TrainingDiverged(f"a weight of the {name} is not finite: {_REMEDY}")


class MonitorReport(NamedTuple):
    """An alarm that begins to ring, or is over."""

    alarm: str
    says: str
    rings: bool


class Trouble(ABC):
    """Something that can be wrong with a run."""

    name: str
    # An entry of the log without all of these is none of its business.
    looks_at: tuple[str, ...]
    # The alarm rings when so many entries in a row have shown it, over so many turns at least:
    # what is shorter may be noise, however often the log is written.
    intervals: int
    turns = 100
    # What to change.
    advice: str

    @abstractmethod
    def look(self, numbers: Numbers) -> str | None:
        """Return what is wrong in these numbers, with the figure; None when nothing is."""


class DiscriminatorWins(Trouble):
    """The discriminator is sure of every picture, so that the generator learns little from it.

    Not for a Wasserstein critic: its gradient does not fade, and it should be ahead.
    """

    name = "discriminator wins"
    looks_at = ("separation", "loss_discriminator")
    intervals = 3

    def __init__(self, bounds: tuple[float, float], loss: str) -> None:
        self._best, self._chance = bounds
        other = "game.loss=non_saturating, " if loss == "minimax" else ""
        self.advice = (
            f"try {other}a lower optimizer.discriminator.learning_rate, game.r1=1, "
            "game.instance_noise or game.augment"
        )

    def look(self, numbers: Numbers) -> str | None:
        """A healthy discriminator is ahead too, but not at the very end of its scale."""
        loss, separation = numbers["loss_discriminator"], numbers["separation"]
        share = (loss - self._best) / (self._chance - self._best)
        if separation < 0.995 or share > 0.01:
            return None
        return (
            f"the discriminator tells real from generated in {separation:.1%} of pairs, "
            f"and its loss of {loss:.3g} is next to nothing"
        )


class GeneratorWins(Trouble):
    """The discriminator cannot tell, and not because the pictures are that good.

    At the end of a good run it can hardly tell either; but it once could.
    """

    name = "generator wins"
    looks_at = ("loss_discriminator",)
    intervals = 3
    advice = (
        "try a higher optimizer.discriminator.learning_rate, game.discriminator_steps=2, "
        "game.balance, or a wider discriminator"
    )

    def __init__(self) -> None:
        self._best, self._mark = 0.0, 0.0

    def look(self, numbers: Numbers) -> str | None:
        """Look at how often real pictures score above generated ones: 0.5 is chance."""
        # A log from before separations were kept is that of a run which could tell.
        separation = numbers.get("separation", 1.0)
        self._best = max(self._best, separation)
        # Some begin with guessing and learn slowly: that is no defeat while they get better.
        learns = separation > self._mark + 0.02
        if learns:
            self._mark = separation
        if separation < 0.45:
            return (
                "the discriminator takes generated pictures for the real ones: "
                f"it scores the real one higher in only {separation:.1%} of pairs"
            )
        if self._best < 0.6 and not learns:
            return (
                "the discriminator has never learned to tell real from generated: "
                f"it is right in {separation:.1%} of pairs, where guessing gives 50%"
            )
        return None


class GradientVanishes(Trouble):
    """A player's gradient is a small part of what it was.

    In a sound run it falls too, to a twentieth or so, as the players come to rest.
    """

    intervals = 3

    def __init__(self, player: str, *, saturates: bool = False) -> None:
        """`saturates`: the loss is log(1 - D(G(z))), whose slope in the logit is D(G(z))."""
        self.name = f"{player}'s gradient vanishes"
        self.looks_at = (f"gradient_{player}",)
        other = "discriminator" if player == "generator" else "generator"
        self.advice = f"try a lower optimizer.{other}.learning_rate" + (
            ", game.loss=non_saturating or wasserstein with game.gradient_penalty=10"
            if player == "generator"
            else ", game.instance_noise or game.r1=1"
        )
        self._player, self._level = player, _Level()
        self._saturates = saturates

    def look(self, numbers: Numbers) -> str | None:
        """Hold the norm against those of the run so far."""
        norm = numbers[self.looks_at[0]]
        # It may have vanished within the first interval, and then there is nothing to compare.
        slope = numbers["fake_score"] if self._saturates else 0.5
        if slope < 0.002:
            return (
                f"the gradient of the {self._player} is {norm:.2g}: where D(G(z)) is {slope:.2g}, "
                "the saturating loss is flat"
            )
        usual = max(self._level.usual, self._level.first)
        if norm < usual / 200:
            return (
                f"the gradient of the {self._player} has fallen to {norm:.2g} "
                f"from {usual:.2g}: it hardly learns"
            )
        self._level.add(norm)
        return None


class GradientExplodes(Trouble):
    """A player's gradient is a hundred times the usual, or a thousand times that of the start."""

    intervals = 2

    def __init__(self, player: str) -> None:
        self.name = f"{player}'s gradient explodes"
        self.looks_at = (f"gradient_{player}",)
        self.advice = f"lower optimizer.{player}.learning_rate, or set game.clip_gradients=1"
        self._player, self._level = player, _Level()

    def look(self, numbers: Numbers) -> str | None:
        """Hold the norm against those of the run so far."""
        norm = numbers[self.looks_at[0]]
        usual, start = self._level.usual, self._level.start
        # Where it grows step by step, what is usual grows with it; what it began with does not.
        if usual and norm > min(100 * usual, 1000 * start):
            return (
                f"the gradient of the {self._player} has grown to {norm:.2g}, "
                f"where {usual:.2g} was usual and it began with {start:.2g}"
            )
        self._level.add(norm)
        return None


class LossesExplode(Trouble):
    """A loss is far beyond what it is where the discriminator guesses.

    This needs no past to compare with, so it holds where a run explodes in its first turns. A
    Wasserstein loss has no such scale.
    """

    name = "losses explode"
    looks_at = ("loss_discriminator", "loss_generator")
    intervals = 2
    advice = (
        "lower optimizer.generator.learning_rate and optimizer.discriminator.learning_rate, "
        "or set game.r1=1 or game.clip_gradients=1"
    )

    def __init__(self, chance: float) -> None:
        self._chance = chance

    def look(self, numbers: Numbers) -> str | None:
        """Look at the larger of the two losses."""
        name = max(self.looks_at, key=lambda name: abs(numbers[name]))
        if abs(numbers[name]) < 100 * self._chance:
            return None
        player = name.removeprefix("loss_")
        return (
            f"the loss of the {player} is {numbers[name]:.3g}, "
            f"where a discriminator that guesses has {self._chance:.2g}"
        )


class _Level:
    """What a number has been while nothing was wrong."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, value: float) -> None:
        """Take in a value, unless it is an outlier: that is no measure of what is usual."""
        if not self._values or value <= 100 * self.usual:
            self._values.append(value)

    @property
    def start(self) -> float:
        """The very first."""
        return self._values[0] if self._values else 0.0

    @property
    def first(self) -> float:
        """The highest of the first few; a gradient may fade from the first turn on."""
        return max(self._values[:3], default=0.0)

    @property
    def usual(self) -> float:
        """The median."""
        return median(self._values) if self._values else 0.0


class ModeCollapse(Trouble):
    """Different latents give the same picture, or a few."""

    name = "mode collapse"
    looks_at = ("diversity", "duplicates")
    intervals = 3
    # Pictures differ late in the first hundreds of turns of a sound run.
    turns = 600
    advice = (
        "try discriminator.minibatch=standard_deviation, a lower "
        "optimizer.generator.learning_rate, or game.loss=wasserstein with game.gradient_penalty=10"
    )

    def __init__(self) -> None:
        self._most = 0.0

    def look(self, numbers: Numbers) -> str | None:
        """Every generator begins with one picture: that is no collapse while it gets better."""
        diversity, duplicates = numbers["diversity"], numbers["duplicates"]
        grows = diversity > self._most * 1.1
        if grows:
            self._most = diversity
        if grows or (diversity > 0.35 and duplicates < 0.5):
            return None
        twins = f", and {duplicates:.0%} of them have a twin" if duplicates >= 0.01 else ""
        return (
            f"pictures of different latents differ by {diversity:.0%} of what real ones do{twins}"
        )


class _Alarm:
    """Rings when its trouble lasts."""

    def __init__(self, trouble: Trouble, patience_images: int) -> None:
        self.trouble = trouble
        self.rings = False
        self._patience = patience_images
        self._began, self._before, self._seen, self._calm = 0, 0, 0, 0

    def hear(self, images: int, numbers: Numbers) -> MonitorReport | None:
        if any(name not in numbers for name in self.trouble.looks_at):
            return None
        wrong = self.trouble.look(numbers)
        if wrong is None:
            self._seen, self._calm = 0, self._calm + 1
            if self.rings and self._calm >= _CALM_INTERVALS:
                self.rings = False
                self._before = images
                return MonitorReport(self.trouble.name, "it is over", rings=False)
        else:
            if not self._seen:
                # The interval that shows it first began at the entry before.
                self._began = self._before
            self._seen, self._calm = self._seen + 1, 0
            lasted = images - self._began >= self._patience
            if not self.rings and lasted and self._seen >= self.trouble.intervals:
                self.rings = True
                self._before = images
                return MonitorReport(
                    self.trouble.name, f"{wrong}; {self.trouble.advice}", rings=True
                )
        self._before = images
        return None


class Convergence:
    """The three signs of convergence, in words."""

    def __init__(self, *, probabilistic: bool) -> None:
        self._probabilistic = probabilistic
        self._losses: dict[str, list[float]] = {"loss_discriminator": [], "loss_generator": []}
        self._scores: tuple[float, ...] = ()
        self._change = math.inf
        self._judged: list[str] = []
        self.state = "begins"

    def hear(self, numbers: Numbers) -> None:
        """Take in the numbers of an interval or of a sampling."""
        self._change = numbers.get("change", self._change)
        if "loss_discriminator" not in numbers:
            return
        for name, values in self._losses.items():
            if name in numbers:
                values.append(numbers[name])
                del values[:-_WINDOW]
        if self._probabilistic:
            self._scores = numbers["real_score"], numbers["fake_score"]
        self._judged = [*self._judged, self._discriminator_loss()][-_AGREE:]
        if self._judged == self._judged[:1] * _AGREE:
            self.state = self._judged[0]

    def _discriminator_loss(self) -> str:
        if any(len(values) < _WINDOW for values in self._losses.values()):
            return "begins"
        if not all(level(values) for values in self._losses.values()):
            return "learning"
        even = all(abs(score - 0.5) < _NEAR_HALF for score in self._scores)
        return "converged" if even and self._change < _SETTLED else "converging"


def level(values: Sequence[float]) -> bool:
    """Whether a series of at least three values neither rises nor falls.

    It does not when the line through it moves, from end to end, less than the values stray from
    it, or less than they matter.
    """
    steps = np.arange(len(values))
    slope, start = np.polyfit(steps, values, 1)
    moved = abs(slope) * (len(values) - 1)
    strays = float(np.std(np.asarray(values) - (start + slope * steps)))
    return bool(moved <= max(2 * strays, 0.02 * float(np.mean(np.abs(values)))))


class Monitors:
    """Hears every number of a run, and says how it goes."""

    def __init__(self, name: str, loss: AdversarialLoss, turn_images: int) -> None:
        """Listen to a game of the loss `name`, whose turns take `turn_images` real pictures."""
        troubles: list[Trouble] = [GeneratorWins(), ModeCollapse()]
        if loss.bounds:
            troubles += DiscriminatorWins(loss.bounds, name), LossesExplode(loss.bounds[1])
        troubles += (
            GradientVanishes("generator", saturates=name == "minimax"),
            GradientVanishes("discriminator"),
            GradientExplodes("generator"),
            GradientExplodes("discriminator"),
        )
        self._alarms = [_Alarm(trouble, trouble.turns * turn_images) for trouble in troubles]
        self._convergence = Convergence(probabilistic=loss.probabilistic)

    def hear(self, entry: Mapping[str, float]) -> list[MonitorReport]:
        """Take in an entry of the log: `images`, and numbers of an interval or of a sampling."""
        if "alarm" in entry:
            return []  # Our own words, in the log of a run that goes on.
        self._convergence.hear(entry)
        heard = (alarm.hear(int(entry["images"]), entry) for alarm in self._alarms)
        return [news for news in heard if news]

    @property
    def state(self) -> str:
        """How the run goes: the alarms that ring, else how far it has come.

        It `begins`, is `learning` as long as a loss rises or falls, `converging` when both are
        level, and `converged` when also the pictures of the same latents have settled and, where
        they are probabilities, D(x) and D(G(z)) are near 0.5.
        """
        ringing = [alarm.trouble.name for alarm in self._alarms if alarm.rings]
        return ", ".join(ringing) or self._convergence.state
