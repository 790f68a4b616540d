"""Monitors of a run: its state, and alarms that name a problem and the recipe keys to change.

An alarm starts when its problem persists, and ends when the problem has been absent for some time.
The state and the alarms depend only on the metrics in the run's log, in order. A resumed run
replays its log to restore the monitors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from training.losses import AdversarialLoss
from training.monitoring.convergence import Convergence
from training.monitoring.problems import Metrics, TrainingProblem, problems_of

# Consecutive intervals without the problem after which an alarm ends.
_CALM_INTERVALS = 2


class MonitorReport(NamedTuple):
    """An alarm that has started (`active`) or ended."""

    alarm: str
    message: str
    active: bool

    def log_entry(self) -> dict[str, str | bool]:
        """Return the report as it is stored in the log of a run."""
        return {"alarm": self.alarm, "says": self.message, "rings": self.active}


class _Alarm:
    """The alarm for one problem. It is active while the problem persists."""

    def __init__(self, problem: TrainingProblem, patience_images: int) -> None:
        self.problem = problem
        self.active = False
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
            if self.active and self._calm >= _CALM_INTERVALS:
                self.active = False
                self._before = images
                return MonitorReport(self.problem.name, "the problem is over", active=False)
        else:
            if not self._seen:
                # The first interval with the problem starts at the previous entry.
                self._started = self._before
            self._seen, self._calm = self._seen + 1, 0
            lasted = images - self._started >= self._patience
            if not self.active and lasted and self._seen >= self.problem.intervals:
                self.active = True
                self._before = images
                return MonitorReport(
                    self.problem.name, f"{wrong}; {self.problem.advice}", active=True
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
        """The names of the active alarms, or, if none is active, the state of convergence.

        `begins` at the start, `learning` while a loss rises or falls, `converging` when both losses
        are level, and `converged` when the images of fixed latents have also settled and D(x) and
        D(G(z)), if they are probabilities, are close to 0.5.
        """
        active = [alarm.problem.name for alarm in self._alarms if alarm.active]
        return ", ".join(active) or self._convergence.state
