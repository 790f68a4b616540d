"""The trainer: one loop for every game."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.runtime.errors import UserError
from service.runtime.progress import INTERVALS, GrowingInterval
from training.checkpoints import Checkpoint
from training.code_revision import code_revision
from training.data.provenance import license_notes
from training.device import device_title
from training.distributed import DistributedContext, joined
from training.evaluation.during_training import RunningQuality
from training.fine_tuning.start import start_from_weights, summary_lines
from training.games.game import GameSetup
from training.monitoring.loggers.logger import LoggedRun, Loggers, check_installed, open_loggers
from training.monitoring.metrics import MetricWindow, TrainingDiverged, assert_finite
from training.monitoring.monitors import MonitorReport, Monitors
from training.monitoring.progress import Display, NoDisplay, display
from training.preparation import prepare
from training.preview.grids import save_sheet
from training.recipe.schema import Recipe
from training.run import Run

# Turns between two checks whether any process received a stop signal. Each check synchronizes all
# processes.
_STOP_EVERY = 16
# Seconds until the first sample sheet, and the longest interval between two. These sheets, and the
# reports at `INTERVALS`, come in addition to those of `train.sample_images` and `train.log_images`,
# which a slow machine or a large network reaches late.
_SHEETS = (40.0, 1800.0)


class TrainingInterrupted(UserError):
    """The run was stopped by a signal. Its state was saved."""

    label = ""

    def __init__(self, signal_number: int, images: int, kind: str = "images") -> None:
        super().__init__(f"stopped at {images:,} {kind}; run the same command again to resume")
        self.exit_code = 128 + signal_number  # type: ignore[misc] # As shells report signals.


@dataclass(frozen=True)
class Result:
    """The result of a finished run."""

    images: int
    seconds: float
    # The mean metrics of the last log interval.
    metrics: Mapping[str, float]
    # Images seen at the best evaluation, and the value of the recipe's metric.
    best: tuple[int, float] | None = None
    # What the data are, in plural.
    kind: str = "images"


# Called with the images seen and the metrics of every evaluation. An exception ends the run.
EvaluationCallback = Callable[[int, Mapping[str, float]], None]


def train(
    recipe: Recipe,
    run: Run,
    on_evaluation: EvaluationCallback | None = None,
    *,
    override: bool = False,
) -> Result | None:
    """Train `recipe` in the folder of `run`, resuming from its last checkpoint if it has one.

    With `override`, the run may continue with other values and other data, which is recorded.
    `on_evaluation` is also called for the evaluations in the log of a resumed run. Returns None in
    all processes but the first. On SIGINT or SIGTERM, saves the run and raises TrainingInterrupted.
    Raises RecipeError, DataError, DeviceUnavailable, LoggerUnavailable, TrainingDiverged,
    QualityError.
    """
    # Before the data are decoded, which may take long.
    check_installed(recipe.train.loggers)
    device = recipe.device.pick_device()
    with joined(device) as distributed:
        result = _train(recipe, run, device, distributed, on_evaluation, override=override)
        return result if distributed.is_main else None


def _train(
    recipe: Recipe,
    run: Run,
    device: torch.device,
    distributed: DistributedContext,
    on_evaluation: EvaluationCallback | None,
    *,
    override: bool,
) -> Result:
    notes: list[str] = []
    data, records, changes = prepare(recipe, run, distributed, override=override)
    precision = recipe.device.pick_precision(device)
    setup = recipe.game.set_up(recipe, data, device, precision, distributed)
    checkpoint = None
    if run.checkpoint_path.exists():
        checkpoint = Checkpoint.load(run.checkpoint_path, device)
    images = checkpoint.images if checkpoint else 0
    fine_tuned = None
    if not checkpoint:
        fine_tuned = start_from_weights(recipe, setup.game.weights, setup.class_names)
    logged = LoggedRun(run.folder, run.name, recipe.model_dump(mode="json"), images)
    names = recipe.train.loggers if distributed.is_main else ()
    with open_loggers(names, logged) as loggers:
        loop = _Loop(recipe, run, setup, device, distributed, loggers, on_evaluation)
        if checkpoint:
            loop.resume(checkpoint)
        if distributed.is_main:
            run.save_recipe(recipe)
            run.save_provenance(records, changes, images, fine_tuned)
            notes = [f"changed from here on: {change}" for change in changes]
            if fine_tuned:
                notes += summary_lines(fine_tuned)
            if not images:
                notes += license_notes(records)
        return loop.run(notes)


def play_turn(
    setup: GameSetup, seed: int, turn: int, images: int, distributed: DistributedContext
) -> Mapping[str, Tensor]:
    """Play one turn and return its metrics. Its random numbers depend only on (seed, turn)."""
    torch.manual_seed(_turn_seed(seed, turn, distributed.rank))
    rng = torch.Generator().manual_seed(_turn_seed(seed, turn, -1))
    return setup.game.turn(setup.batches(turn), rng, turn, images)


class _Loop:
    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        setup: GameSetup,
        device: torch.device,
        distributed: DistributedContext,
        loggers: Loggers,
        on_evaluation: EvaluationCallback | None,
    ) -> None:
        self._options = recipe.train
        self._run, self._setup, self._game = run, setup, setup.game
        self._device, self._distributed, self._loggers = device, distributed, loggers
        self._code_revision = code_revision()
        self._turn_images = recipe.train.batch * self._game.batches_per_turn
        self._monitors = Monitors(self._game.loss, self._turn_images)
        self._shows_inputs = recipe.image_input is not None
        self._evaluate_images = recipe.evaluate.every_images if recipe.evaluate else 0
        self._quality: RunningQuality | None = None
        if recipe.evaluate and distributed.is_main:
            validate = setup.validate(recipe.evaluate)
            self._quality = RunningQuality(recipe.evaluate, recipe.metric, validate)
        self._on_evaluation = on_evaluation
        self._kind = setup.data.kind
        self._turn, self._images, self._seconds = 0, 0, 0.0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        checkpoint.restore(self._game, self._run.checkpoint_path)
        self._turn, self._images = checkpoint.turn, checkpoint.images
        self._seconds = checkpoint.seconds
        if self._distributed.is_main:
            for entry in self._run.rewind_log(self._images):
                self._monitors.update(entry)
                self._record_evaluation(entry)

    def run(self, notes: Sequence[str] = ()) -> Result:
        """Play turns until the run ends. `notes` are shown at the start, one line each."""
        options, window = self._options, MetricWindow(self._distributed)
        means: Mapping[str, float] = {}
        with self._display() as shown, _stop_signals() as stop:
            self._announce(shown, notes)
            started, seconds_before = time.monotonic(), self._seconds
            reported_at, reported_images = started, self._images
            out_of_patience = self._out_of_patience()
            next_report, next_sheet = GrowingInterval(*INTERVALS), GrowingInterval(*_SHEETS)
            while not out_of_patience and self._images + self._turn_images <= options.images:
                # Draw the turn's batches and train both players.
                window.add(
                    play_turn(
                        self._setup, options.seed, self._turn, self._images, self._distributed
                    )
                )
                self._turn += 1
                before, self._images = self._images, self._images + self._turn_images
                self._seconds = seconds_before + time.monotonic() - started
                shown.advance(self._images)
                rate = (self._images - reported_images) / max(time.monotonic() - reported_at, 1e-9)
                is_last = self._images + self._turn_images > options.images

                # Log the metrics.
                if is_last or _passed(before, self._images, options.log_images):
                    means = self._take_means(window)
                    reported_at, reported_images = time.monotonic(), self._images
                    self._report(shown, rate, means)
                    next_report.restart()
                elif self._distributed.is_main and next_report.due():
                    # Not logged, so that the log depends only on the images seen.
                    shown.report(self._images, rate, window.local_means(), self._monitors.state)

                # Write a sample sheet.
                if is_last or _passed(before, self._images, options.sample_images):
                    self._sample(shown)
                    next_sheet.restart()
                elif self._distributed.is_main and next_sheet.due():
                    # Not measured, for the same reason.
                    path = self._save_sheet(self._setup.sample_sheet(measure=False)[0])
                    shown.say(f"{self._images:,} {self._kind}: samples in {path}")

                # Evaluate, and keep the best checkpoint.
                if self._evaluate_images and (
                    is_last or _passed(before, self._images, self._evaluate_images)
                ):
                    self._evaluate(shown)
                    out_of_patience = self._out_of_patience()

                # Save a checkpoint.
                stop_signal = self._stop_signal(stop)
                if (
                    is_last
                    or out_of_patience
                    or stop_signal
                    or _passed(before, self._images, options.checkpoint_images)
                ):
                    self._save(self._run.checkpoint_path)
                if stop_signal and not (is_last or out_of_patience):
                    raise TrainingInterrupted(stop_signal, self._images, self._kind)
            if out_of_patience:
                shown.say(f"{self._images:,} {self._kind}: stopped early, no further improvement")
        best = self._quality.best if self._quality else None
        return Result(self._images, self._seconds, means, best, self._kind)

    def _stop_signal(self, stop: _Stop) -> int:
        """Return a signal that any process received, or 0. All processes return the same."""
        if self._distributed.world == 1:
            return stop.number
        if self._turn % _STOP_EVERY:
            return 0
        return self._distributed.largest(stop.number, self._device)

    def _evaluate(self, shown: Display) -> None:
        """Measure the averaged generator, and save it if it is the best so far."""
        if self._quality is None:
            return
        metrics = self._quality.measure()
        if self._record_evaluation({"images": self._images, **metrics}):
            self._save(self._run.best_path)
        self._log(shown, metrics)
        best = self._quality.best
        assert best is not None  # noqa: S101 - there is at least this evaluation
        summary = self._quality.summary(metrics)
        shown.say(f"{self._images:,} {self._kind}: {summary}; best at {best[0]:,}")

    def _record_evaluation(self, entry: Mapping[str, Any]) -> bool:
        """Record an evaluation, call `on_evaluation`, and return whether it is the best so far."""
        if self._quality is None or self._quality.metric not in entry:
            return False
        is_best = self._quality.record(entry)
        if self._on_evaluation:
            self._on_evaluation(int(entry["images"]), entry)
        return is_best

    def _out_of_patience(self) -> bool:
        """Return whether the run stops early; all processes return the same."""
        out_of_patience = bool(self._quality and self._quality.out_of_patience)
        return bool(self._distributed.largest(int(out_of_patience), self._device))

    def _save(self, path: Path) -> None:
        if self._distributed.is_main:
            state = self._game.state_dict()
            assert_finite(state["networks"])
            checkpoint = Checkpoint(
                turn=self._turn,
                images=self._images,
                seconds=self._seconds,
                device=device_title(self._device),
                code_revision=self._code_revision,
                class_names=list(self._setup.class_names),
                game=state,
            )
            checkpoint.save(path)

    def _sample(self, shown: Display) -> None:
        if not self._distributed.is_main:
            return
        sheet, metrics = self._setup.sample_sheet()
        self._save_sheet(sheet)
        self._loggers.sheet(sheet, self._images)
        self._log(shown, metrics)

    def _save_sheet(self, sheet: Image.Image) -> Path:
        path = self._run.samples / f"{self._images:010}.png"
        save_sheet(sheet, path, shows_inputs=self._shows_inputs)
        return path

    def _report(self, shown: Display, rate: float, means: Mapping[str, float]) -> None:
        if self._distributed.is_main:
            metrics = {"images_per_second": round(rate, 1), **means}
            self._log(shown, metrics, seconds=round(self._seconds, 3))
            shown.report(self._images, rate, means, self._monitors.state)

    def _log(self, shown: Display, metrics: Mapping[str, float], **more: float) -> None:
        """Write metrics, and alarms that start or end with them, to the log and the loggers."""
        if not self._distributed.is_main:
            return
        entry = {"images": self._images, **more, **metrics}
        state_before = self._monitors.state
        reports = self._monitors.update(entry)
        self._run.log({**entry, "state": self._monitors.state})
        self._loggers.metrics(metrics, self._images)
        for report in reports:
            label = "alarm" if report.active else "alarm over"
            shown.say(f"{label}: {report.alarm}: {report.message}")
            self._log_alarm(report)
        if not reports and self._monitors.state != state_before:
            shown.say(f"{self._images:,} {self._kind}: the run is {self._monitors.state}")

    def _log_alarm(self, report: MonitorReport) -> None:
        if self._distributed.is_main:
            self._run.log({"images": self._images, **report.log_entry()})
            self._loggers.text(f"alarms/{report.alarm}", report.message, self._images)

    def _take_means(self, window: MetricWindow) -> Mapping[str, float]:
        """Return the means of the interval. If one is not finite, log an alarm and re-raise."""
        try:
            return window.take()
        except TrainingDiverged as error:
            self._log_alarm(MonitorReport("not a number", str(error), active=True))
            raise

    def _announce(self, shown: Display, notes: Sequence[str]) -> None:
        data = self._setup.data
        for note in [*notes, *self._loggers.locations]:
            shown.say(note)
        count = f"{len(data):,} {self._kind}"
        if data.skipped:
            count += f" ({len(data.skipped)} corrupt files skipped)"
        for line in filter(None, [data.summary(), *data.warnings()]):
            shown.say(line)
        status = f"resumes at {self._images:,} {self._kind}" if self._images else "starts"
        shown.say(f"{self._run.folder}: {status}; {count}, on {self._device}")

    @contextmanager
    def _display(self) -> Iterator[Display]:
        if not self._distributed.is_main:
            yield NoDisplay()
            return
        with display(self._options.images, self._images, self._kind) as shown:
            yield shown


class _Stop:
    number: int = 0


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Record SIGINT and SIGTERM; the loop handles them between turns."""
    stop = _Stop()

    def record(number: int, _: FrameType | None) -> None:
        stop.number = number

    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _turn_seed(seed: int, turn: int, stream: int) -> int:
    """Return a 63-bit hash of (seed, turn, stream). All processes share stream -1."""
    state = np.random.SeedSequence([seed, turn, stream + 1]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def _passed(before: int, after: int, interval: int) -> bool:
    """Return whether a multiple of `interval` lies in (before, after]."""
    return before // interval != after // interval
