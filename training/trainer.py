"""The one trainer, and its loop in the open."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from service.runtime.errors import UserError
from training.checkpoints import Checkpoint
from training.code_revision import code_revision
from training.data.images import ImageData
from training.device import device_title
from training.distributed import DistributedContext, joined
from training.evaluation.during_training import RunningQuality
from training.games.setup import Setup, prepare_all, set_up
from training.monitoring.monitors import (
    MetricWindow,
    MonitorReport,
    Monitors,
    TrainingDiverged,
    assert_finite,
)
from training.monitoring.progress import Display, Silence, display
from training.preview.grids import save_image
from training.recipe.schema import Recipe, RecipeError
from training.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Interrupted(UserError):
    """The user or the system asked the run to stop, and it is saved."""

    label = ""

    def __init__(self, signal_number: int, images: int) -> None:
        super().__init__(f"stopped at {images:,} images; the same command goes on from there")
        self.exit_code = 128 + signal_number  # type: ignore[misc] # As shells count it.


@dataclass(frozen=True)
class Result:
    """What a finished run amounts to."""

    images: int
    seconds: float
    signs: Mapping[str, float]
    # Of the best evaluation: the images seen, and its figure.
    best: tuple[int, float] | None = None


# Hears of an evaluation: the images seen, and the figures. What it raises ends the run.
Watch = Callable[[int, Mapping[str, float]], None]


def train(recipe: Recipe, run: Run, watch: Watch | None = None) -> Result | None:
    """Train by `recipe` in the folder of `run`, from its last checkpoint where it has one.

    `watch` hears of every evaluation, of those in the log too. Returns None in a process that helps
    another one. On SIGINT and SIGTERM the run is saved and Interrupted raised. Raises RecipeError,
    DataError, DeviceUnavailable, TrainingDiverged, QualityError.
    """
    device = recipe.device.pick_device()
    with joined(device) as share:
        result = _train(recipe, run, device, share, watch)
        return result if share.leads else None


def _train(
    recipe: Recipe, run: Run, device: torch.device, share: DistributedContext, watch: Watch | None
) -> Result:
    if recipe.train.batch % (share.world * recipe.train.accumulate):
        parts = f" in {recipe.train.accumulate} parts" if recipe.train.accumulate > 1 else ""
        raise RecipeError(
            f"train.batch ({recipe.train.batch}) cannot be shared by {share.world} processes{parts}"
        )
    if share.leads:
        run.open(recipe)
    share.wait()

    # The leader decodes; the others then find the decoded copy.
    if share.leads:
        pictures = _prepare(recipe)
    share.wait()
    if not share.leads:
        pictures = prepare_all(recipe)
    setup = set_up(recipe, pictures, device, recipe.device.pick_precision(device), share)
    checkpoint = None
    if run.checkpoint_path.exists():
        checkpoint = Checkpoint.load(run.checkpoint_path, device)
    images = checkpoint.images if checkpoint else 0
    with _writer(run, images) if share.leads else nullcontext() as writer:
        loop = _Loop(recipe, run, setup, device, share, writer, watch)
        if checkpoint:
            loop.resume(checkpoint)
        return loop.play()


def play_turn(
    setup: Setup, seed: int, turn: int, images: int, share: DistributedContext
) -> Mapping[str, Tensor]:
    """Play a turn, which everything random in it is a function of; return its signs."""
    torch.manual_seed(_turn_seed(seed, turn, share.rank))
    rng = torch.Generator().manual_seed(_turn_seed(seed, turn, -1))
    return setup.game.turn(setup.deal(turn), rng, turn, images)


class _Loop:
    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        setup: Setup,
        device: torch.device,
        share: DistributedContext,
        writer: SummaryWriter | None,
        watch: Watch | None,
    ) -> None:
        self._options = recipe.train
        self._run, self._setup, self._game = run, setup, setup.game
        self._device, self._share, self._writer = device, share, writer
        self._code_revision = code_revision()
        self._monitors = Monitors(
            recipe.game.loss, self._game.loss, recipe.train.batch * self._game.batches_per_turn
        )
        self._evaluate_images = recipe.evaluate.every_images if recipe.evaluate else 0
        self._quality: RunningQuality | None = None
        if recipe.evaluate and share.leads:
            gauge = setup.gauge(recipe.evaluate)
            self._quality = RunningQuality(recipe.evaluate, recipe.metric, gauge)
        self._watch = watch
        self._turn, self._images, self._seconds = 0, 0, 0.0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from where the checkpoint was written."""
        self._game.load_state_dict(checkpoint.game)
        self._turn, self._images = checkpoint.turn, checkpoint.images
        self._seconds = checkpoint.seconds
        if self._share.leads:
            for entry in self._run.rewind_log(self._images):
                self._monitors.hear(entry)
                self._hear(entry)

    def play(self) -> Result:
        """Play turns to the end of the run."""
        options, signs = self._options, MetricWindow(self._share)
        means: Mapping[str, float] = {}
        per_turn = options.batch * self._game.batches_per_turn
        with self._display() as shown, _signals() as stop:
            self._greet(shown)
            began, began_at, reported = time.monotonic(), self._seconds, self._images
            reported_at = began
            ends = self._gave_up()
            while not ends and self._images + per_turn <= options.images:
                # Draw the turn's pictures and play it.
                signs.add(
                    play_turn(self._setup, options.seed, self._turn, self._images, self._share)
                )
                self._turn += 1
                before, self._images = self._images, self._images + per_turn
                self._seconds = began_at + time.monotonic() - began
                shown.advance(self._images)
                last = self._images + per_turn > options.images

                # Say how it goes.
                if last or _passed(before, self._images, options.log_images):
                    means = self._take(signs)
                    now = time.monotonic()
                    rate = (self._images - reported) / max(now - reported_at, 1e-9)
                    reported, reported_at = self._images, now
                    self._report(shown, rate, means)

                # Show what it makes.
                if last or _passed(before, self._images, options.sample_images):
                    self._sample(shown)

                # Measure how good it is.
                if self._evaluate_images and (
                    last or _passed(before, self._images, self._evaluate_images)
                ):
                    self._evaluate(shown)
                    ends = self._gave_up()

                # Keep it.
                asked = self._asked_to_stop(stop)
                if (
                    last
                    or ends
                    or asked
                    or _passed(before, self._images, options.checkpoint_images)
                ):
                    self._save()
                if asked and not (last or ends):
                    raise Interrupted(asked, self._images)
            if ends:
                shown.say(f"{self._images:,} images: ends early, for it gets no better")
        best = self._quality.best if self._quality else None
        return Result(self._images, self._seconds, means, best)

    def _asked_to_stop(self, stop: _Stop) -> int:
        """Return the signal that any process got; all of them return it at the same turn."""
        if self._share.world == 1:
            return stop.number
        # Asking the others waits for them, so not at every turn.
        return self._share.largest(stop.number, self._device) if self._turn % 16 == 0 else 0

    def _evaluate(self, shown: Display) -> None:
        """Measure the averaged generator, and keep it where it is the best so far."""
        if self._quality is None:
            return
        numbers = self._quality.measure()
        if self._hear({"images": self._images, **numbers}):
            self._save(self._run.best_path)
        self._tell(shown, numbers)
        best = self._quality.best
        assert best is not None  # noqa: S101 - there is at least the one of now
        said = self._quality.say(numbers)
        shown.say(f"{self._images:,} images: {said}; the best was at {best[0]:,}")

    def _hear(self, entry: Mapping[str, Any]) -> bool:
        """Return whether an entry of the log is the best evaluation so far."""
        if self._quality is None or self._quality.metric not in entry:
            return False
        is_best = self._quality.hear(entry)
        if self._watch:
            self._watch(int(entry["images"]), entry)
        return is_best

    def _gave_up(self) -> bool:
        """Whether the run gets no better; all processes answer alike."""
        gave_up = bool(self._quality and self._quality.gave_up)
        return bool(self._share.largest(int(gave_up), self._device))

    def _save(self, path: Path | None = None) -> None:
        if self._share.leads:
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
            checkpoint.save(path or self._run.checkpoint_path)

    def _sample(self, shown: Display) -> None:
        if not self._share.leads or self._writer is None:
            return
        sheet, figures = self._setup.show()
        save_image(sheet, self._run.samples / f"{self._images:010}.png", "PNG")
        pixels = np.atleast_3d(np.asarray(sheet))
        self._writer.add_image("samples", pixels, self._images, dataformats="HWC")
        self._tell(shown, figures)

    def _report(self, shown: Display, rate: float, means: Mapping[str, float]) -> None:
        if self._share.leads:
            numbers = {"images_per_second": round(rate, 1), **means}
            self._tell(shown, numbers, seconds=round(self._seconds, 3))
            shown.report(self._images, rate, means, self._monitors.state)

    def _tell(self, shown: Display, numbers: Mapping[str, float], **more: float) -> None:
        """Log the numbers, and what the monitors make of them."""
        if self._writer is None:
            return
        entry = {"images": self._images, **more, **numbers}
        before = self._monitors.state
        news = self._monitors.hear(entry)
        self._run.log({**entry, "state": self._monitors.state})
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, self._images)
        for one in news:
            shown.say(f"{'alarm' if one.rings else 'no alarm any more'}: {one.alarm}: {one.says}")
            self._note(one)
        if not news and self._monitors.state != before:
            shown.say(f"{self._images:,} images: the run is {self._monitors.state}")

    def _note(self, news: MonitorReport) -> None:
        """Keep what an alarm says where the user looks for it later."""
        if self._writer is not None:
            self._run.log({"images": self._images, **news._asdict()})
            self._writer.add_text(f"alarms/{news.alarm}", news.says, self._images)

    def _take(self, signs: MetricWindow) -> Mapping[str, float]:
        """Return the means of the interval; where one is not a number, the log says so too."""
        try:
            return signs.take()
        except TrainingDiverged as error:
            self._note(MonitorReport("not a number", str(error), rings=True))
            raise

    def _greet(self, shown: Display) -> None:
        pictures = self._setup.pictures
        count = f"{len(pictures):,} pictures"
        if pictures.skipped:
            count += f" ({len(pictures.skipped)} corrupt ones left out)"
            for name in pictures.skipped[:10]:
                shown.say(f"left out: {name}")
        begins = f"goes on at {self._images:,} images" if self._images else "begins"
        shown.say(f"{self._run.folder}: {begins}; {count}, on {self._device}")

    @contextmanager
    def _display(self) -> Iterator[Display]:
        if not self._share.leads:
            yield Silence()
            return
        with display(self._options.images, self._images) as shown:
            yield shown


class _Stop:
    number: int = 0


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Turn SIGINT and SIGTERM into a wish that the loop looks at between two turns."""
    stop = _Stop()

    def wish(number: int, _: FrameType | None) -> None:
        stop.number = number

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _writer(run: Run, images: int) -> Iterator[SummaryWriter]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to import

    # What was written after the checkpoint will be written again.
    with SummaryWriter(str(run.tensorboard), purge_step=images + 1) as writer:
        yield writer


def _prepare(recipe: Recipe) -> ImageData:
    from rich.progress import Progress as Bar  # noqa: PLC0415

    with Bar(transient=True) as bar:
        task = bar.add_task("decoding pictures", visible=False)
        return prepare_all(
            recipe,
            lambda done, total: bar.update(task, completed=done, total=total, visible=True),
        )


def _turn_seed(seed: int, turn: int, stream: int) -> int:
    """Mix (seed, turn, stream) into 64 bits; stream -1 is shared by all processes."""
    state = np.random.SeedSequence([seed, turn, stream + 1]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def _passed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return before // interval != after // interval
