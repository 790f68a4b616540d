"""Problems of GAN training, detected from the metrics in the log.

The criteria compare a run with its own past, with real images, or with the bounds of its loss,
because absolute scores and gradients are not comparable between recipes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from statistics import median

from training.losses import AdversarialLoss

Metrics = Mapping[str, float]


class TrainingProblem(ABC):
    """A problem that a run can have."""

    name: str
    # Log entries that lack one of these metrics are skipped.
    needs: tuple[str, ...]
    # The alarm starts if the problem persists for this many consecutive entries and for at least
    # this many turns. A shorter problem may be noise, even if the log is written often.
    intervals: int
    turns = 100
    # Recipe keys to change, for the user.
    advice: str

    @abstractmethod
    def check(self, metrics: Metrics) -> str | None:
        """Return a description of the problem, or None if these metrics do not show it."""


class DiscriminatorWins(TrainingProblem):
    """The discriminator is certain about every image, so the generator learns little from it.

    Not used for Wasserstein critics: their gradient does not vanish, and they should be ahead of
    the generator.
    """

    name = "discriminator wins"
    needs = ("separation", "loss_discriminator")
    intervals = 3

    def __init__(self, bounds: tuple[float, float], *, saturates: bool) -> None:
        """`bounds` and `saturates` are the fields of `AdversarialLoss`."""
        self._best, self._chance = bounds
        other_loss = "game.loss=non_saturating, " if saturates else ""
        self.advice = (
            f"try {other_loss}a lower optimizer.discriminator.learning_rate, game.r1=1, "
            "game.instance_noise or game.augment"
        )

    def check(self, metrics: Metrics) -> str | None:
        """Check for a loss near its lower bound. In healthy runs, it is further from it."""
        loss, separation = metrics["loss_discriminator"], metrics["separation"]
        fraction = (loss - self._best) / (self._chance - self._best)
        if separation < 0.995 or fraction > 0.01:
            return None
        return (
            f"the discriminator tells real from generated in {separation:.1%} of pairs, "
            f"and its loss of {loss:.3g} is almost at its minimum"
        )


class GeneratorWins(TrainingProblem):
    """The discriminator cannot tell real from generated images although these are still bad.

    At the end of a good run it can hardly tell them apart either, but earlier in the run it could.
    """

    name = "generator wins"
    needs = ("loss_discriminator",)
    intervals = 3
    advice = (
        "try a higher optimizer.discriminator.learning_rate, game.discriminator_steps=2, "
        "game.balance, or a wider discriminator"
    )

    def __init__(self) -> None:
        self._best, self._mark = 0.0, 0.0

    def check(self, metrics: Metrics) -> str | None:
        """Check how often real images score higher than generated ones; 0.5 is chance."""
        # Logs of old versions have no separation. Assume that the discriminator could separate.
        separation = metrics.get("separation", 1.0)
        self._best = max(self._best, separation)
        # A discriminator may guess at first and learn slowly.
        learns = separation > self._mark + 0.02
        if learns:
            self._mark = separation
        if separation < 0.45:
            return (
                "the discriminator takes generated images for real: "
                f"it scores the real image higher in only {separation:.1%} of pairs"
            )
        if self._best < 0.6 and not learns:
            return (
                "the discriminator has never learned to tell real from generated: "
                f"it is right in {separation:.1%} of pairs; guessing gives 50%"
            )
        return None


class GradientVanishes(TrainingProblem):
    """A player's gradient has become a small fraction of its usual value.

    In healthy runs the gradient also falls, to about 1/20, while the players converge.
    """

    intervals = 3

    def __init__(self, player: str, *, saturates: bool = False) -> None:
        """Set `saturates` for the loss log(1 - D(G(z))), whose slope in the logit is D(G(z))."""
        self.name = f"{player}'s gradient vanishes"
        self.needs = (f"gradient_{player}",)
        other = "discriminator" if player == "generator" else "generator"
        self.advice = f"try a lower optimizer.{other}.learning_rate" + (
            ", game.loss=non_saturating or wasserstein with game.gradient_penalty=10"
            if player == "generator"
            else ", game.instance_noise or game.r1=1"
        )
        self._player, self._level = player, _Level()
        self._saturates = saturates

    def check(self, metrics: Metrics) -> str | None:
        """Compare the gradient norm with earlier norms of the run."""
        norm = metrics[self.needs[0]]
        # The gradient may vanish within the first interval, when there is no earlier norm.
        slope = metrics["fake_score"] if self._saturates else 0.5
        if slope < 0.002:
            return (
                f"the gradient of the {self._player} is {norm:.2g}: at D(G(z)) = {slope:.2g} "
                "the saturating loss is flat"
            )
        usual = max(self._level.usual, self._level.first)
        if norm < usual / 200:
            return (
                f"the gradient of the {self._player} has fallen from {usual:.2g} to {norm:.2g}: "
                "it hardly learns"
            )
        self._level.add(norm)
        return None


class GradientExplodes(TrainingProblem):
    """A player's gradient is 100 times its usual norm, or 1000 times its first norm."""

    intervals = 2

    def __init__(self, player: str) -> None:
        self.name = f"{player}'s gradient explodes"
        self.needs = (f"gradient_{player}",)
        self.advice = f"lower optimizer.{player}.learning_rate, or set game.clip_gradients=1"
        self._player, self._level = player, _Level()

    def check(self, metrics: Metrics) -> str | None:
        """Compare the gradient norm with earlier norms of the run."""
        norm = metrics[self.needs[0]]
        usual, start = self._level.usual, self._level.start
        # If the norm grows gradually, the usual norm also grows, but the first norm does not.
        if usual and norm > min(100 * usual, 1000 * start):
            return (
                f"the gradient of the {self._player} has grown to {norm:.2g}; "
                f"the usual value is {usual:.2g}, the first one was {start:.2g}"
            )
        self._level.add(norm)
        return None


class LossesExplode(TrainingProblem):
    """A loss is far above its value for a discriminator that guesses.

    The check needs no history, so it also detects losses that explode in the first turns. Not used
    for Wasserstein losses, which have no such reference value.
    """

    name = "losses explode"
    needs = ("loss_discriminator", "loss_generator")
    intervals = 2
    advice = (
        "lower optimizer.generator.learning_rate and optimizer.discriminator.learning_rate, "
        "or set game.r1=1 or game.clip_gradients=1"
    )

    def __init__(self, chance: float) -> None:
        """`chance` is the loss of a discriminator that guesses."""
        self._chance = chance

    def check(self, metrics: Metrics) -> str | None:
        """Check the larger of the two losses."""
        name = max(self.needs, key=lambda name: abs(metrics[name]))
        if abs(metrics[name]) < 100 * self._chance:
            return None
        player = name.removeprefix("loss_")
        return (
            f"the loss of the {player} is {metrics[name]:.3g}; "
            f"a discriminator that guesses has {self._chance:.2g}"
        )


class ModeCollapse(TrainingProblem):
    """The generator maps all latents to the same image or to a few images."""

    name = "mode collapse"
    needs = ("diversity", "duplicates")
    intervals = 3
    # In healthy runs, images start to differ within a few hundred turns.
    turns = 600
    advice = (
        "try discriminator.minibatch=standard_deviation, a lower "
        "optimizer.generator.learning_rate, or game.loss=wasserstein with game.gradient_penalty=10"
    )

    def __init__(self) -> None:
        self._highest = 0.0

    def check(self, metrics: Metrics) -> str | None:
        """Check for low diversity. If the diversity still grows, it is not a collapse."""
        diversity, duplicates = metrics["diversity"], metrics["duplicates"]
        grows = diversity > self._highest * 1.1
        if grows:
            self._highest = diversity
        if grows or (diversity > 0.35 and duplicates < 0.5):
            return None
        twins = f", and {duplicates:.0%} of them are duplicates" if duplicates >= 0.01 else ""
        return f"the images are only {diversity:.0%} as diverse as real images{twins}"


class _Level:
    """The usual level of a metric while there is no problem."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, value: float) -> None:
        """Record a value unless it is an outlier."""
        if not self._values or value <= 100 * self.usual:
            self._values.append(value)

    @property
    def start(self) -> float:
        """The first value."""
        return self._values[0] if self._values else 0.0

    @property
    def first(self) -> float:
        """The maximum of the first three values.

        A reference that still holds if the gradient vanishes right after the start.
        """
        return max(self._values[:3], default=0.0)

    @property
    def usual(self) -> float:
        """The median."""
        return median(self._values) if self._values else 0.0


def problems_of(loss: AdversarialLoss) -> list[TrainingProblem]:
    """Return the problems to check for when training with `loss`."""
    problems: list[TrainingProblem] = [GeneratorWins(), ModeCollapse()]
    if loss.bounds:
        problems += (
            DiscriminatorWins(loss.bounds, saturates=loss.saturates),
            LossesExplode(loss.bounds[1]),
        )
    return [
        *problems,
        GradientVanishes("generator", saturates=loss.saturates),
        GradientVanishes("discriminator"),
        GradientExplodes("generator"),
        GradientExplodes("discriminator"),
    ]
