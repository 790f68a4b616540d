"""Monitors of a run: its state, and alarms that name a problem and the recipe keys to change.

An alarm rings when its problem persists, and is over when the problem has been absent for a while.
Both depend only on the metrics in the run's log, in order. A resumed run replays its log to restore
the monitors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from training.losses import AdversarialLoss
from training.monitoring.convergence import Convergence
from training.monitoring.problems import Metrics, TrainingProblem, problems_of

# Intervals without a problem after which its alarm is over.
_CALM_INTERVALS = 2


class MonitorReport(NamedTuple):
    """An alarm that starts or ends."""

    alarm: str
    says: str
    rings: bool


class _Alarm:
    """Rings when its problem persists."""

    def __init__(self, problem: TrainingProblem, patience_images: int) -> None:
        self.problem = problem
        self.rings = False
        self._patience = patience_images
        # Images seen when the problem started, and at the previous entry; consecutive intervals
        # with the problem, and without it.
        self._started, self._before, self._seen, self._calm = 0, 0, 0, 0

    def update(self, images: int, metrics: Metrics) -> MonitorReport | None:
        if any(name not in metrics for name in self.problem.needs):
            return None
        wrong = self.problem.check(metrics)
        if wrong is None:
            self._seen, self._calm = 0, self._calm + 1
            if self.rings and self._calm >= _CALM_INTERVALS:
                self.rings = False
                self._before = images
                return MonitorReport(self.problem.name, "the problem is over", rings=False)
        else:
            if not self._seen:
                # The first interval with the problem starts at the previous entry.
                self._started = self._before
            self._seen, self._calm = self._seen + 1, 0
            lasted = images - self._started >= self._patience
            if not self.rings and lasted and self._seen >= self.problem.intervals:
                self.rings = True
                self._before = images
                return MonitorReport(
                    self.problem.name, f"{wrong}; {self.problem.advice}", rings=True
                )
        self._before = images
        return None


class Monitors:
    """The state and the alarms of a run, updated from its log."""

    def __init__(self, loss: AdversarialLoss, turn_images: int) -> None:
        """Monitor a game with `loss`. A turn has `turn_images` real images."""
        self._alarms = [
            _Alarm(problem, problem.turns * turn_images) for problem in problems_of(loss)
        ]
        self._convergence = Convergence(probabilistic=loss.probabilistic)

    def update(self, entry: Mapping[str, float]) -> list[MonitorReport]:
        """Process a log entry: `images`, and the metrics of an interval or of a sample sheet."""
        if "alarm" in entry:
            return []  # The log of a resumed run contains earlier reports.
        self._convergence.update(entry)
        reports = (alarm.update(int(entry["images"]), entry) for alarm in self._alarms)
        return [report for report in reports if report]

    @property
    def state(self) -> str:
        """The names of the ringing alarms; without alarms, the state of convergence.

        `begins` at the start, `learning` while a loss rises or falls, `converging` when both losses
        are level, and `converged` when the images of fixed latents have also settled and D(x) and
        D(G(z)), if they are probabilities, are close to 0.5.
        """
        ringing = [alarm.problem.name for alarm in self._alarms if alarm.rings]
        return ", ".join(ringing) or self._convergence.state
