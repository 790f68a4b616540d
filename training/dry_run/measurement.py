"""Measures a training on its own data and networks, without writing into the run folder."""

from __future__ import annotations

import io
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from service.runtime.progress import StageProgress
from training.checkpoints import Checkpoint
from training.device import device_title
from training.distributed import DistributedContext, joined
from training.dry_run.layers import LayerTable, recorded_layers
from training.dry_run.memory import PeakMemory, tensor_bytes
from training.fine_tuning.start import start_from_weights, summary_lines
from training.games.game import Game, GameSetup
from training.monitoring.loggers.logger import check_installed
from training.monitoring.metrics import MetricWindow
from training.preparation import Preparation, prepare
from training.recipe.schema import Recipe
from training.run import Run
from training.trainer import play_turn

# Turns that are measured, at least. Their number is a whole number of the game's periods.
_TURNS = 10
# Turns before them: the first allocates memory, and libraries choose algorithms.
_WARM_UP = 2


@dataclass(frozen=True)
class Player:
    """The size of a player, in numbers of weights and bytes, and its layers."""

    parameters: int
    trained_parameters: int
    weights_bytes: int
    optimizer_bytes: int
    unlisted_parameters: int
    layers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Phase:
    """The measured speed of a part of the training in which turns cost the same.

    `data_share` is the part of a turn in which it drew its batches.
    """

    from_images: int
    to_images: int
    turns: int
    images_per_second: float
    data_share: float

    @property
    def seconds(self) -> float:
        """The time of the whole phase."""
        return (self.to_images - self.from_images) / self.images_per_second


@dataclass(frozen=True)
class Repeated:
    """Work beside the turns: how often it is done until the end, and its measured seconds."""

    times: int
    seconds_each: float

    @property
    def seconds(self) -> float:
        """The time of all repetitions."""
        return self.times * self.seconds_each


@dataclass(frozen=True)
class DryRun:
    """What was measured. Sizes are in bytes."""

    run: str
    # Images seen at the checkpoint from which the run would be resumed; None for a new run.
    resumes_at: int | None
    images: int
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    device: str
    precision: str
    processes: int
    data: Mapping[str, Any]
    players: Mapping[str, Player]
    average_bytes: int
    peak_bytes: int
    peak_of: str
    phases: tuple[Phase, ...]
    sheets: Repeated
    checkpoints: Repeated
    evaluations: Repeated
    checkpoint_bytes: int
    checkpoint_files: int
    sheets_bytes: int
    free_bytes: int

    @property
    def seconds(self) -> float:
        """The time until the end of the training."""
        beside = (self.sheets, self.checkpoints, self.evaluations)
        return sum(phase.seconds for phase in self.phases) + sum(each.seconds for each in beside)

    @property
    def disk_bytes(self) -> int:
        """The bytes that the run needs, with the copy that is written before it is renamed."""
        return (self.checkpoint_files + 1) * self.checkpoint_bytes + self.sheets_bytes

    def document(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {**asdict(self), "seconds": self.seconds, "disk_bytes": self.disk_bytes}


def dry_run(
    recipe: Recipe, run: Run, show: StageProgress, *, override: bool = False
) -> DryRun | None:
    """Build everything as `training.trainer.train` does, and measure some turns of each phase.

    Nothing is written into the folder of `run`. The decoded data are kept in the cache, where the
    training finds them. Returns None in all processes but the first. Raises what `train` raises at
    its start, and TrainingDiverged.
    """
    check_installed(recipe.train.loggers)
    device = recipe.device.pick_device()
    with joined(device) as distributed:
        measurement = _Measurement(recipe, run, device, distributed, show)
        result = measurement.measure(override=override)
        return result if distributed.is_main else None


class _TimedSetup:
    """A setup that measures the time in which batches are drawn."""

    def __init__(self, setup: GameSetup) -> None:
        self._setup = setup
        self.seconds = 0.0

    @property
    def game(self) -> Game:
        return self._setup.game

    def batches(self, turn: int) -> Sequence[Any]:
        started = time.perf_counter()
        batches = self._setup.batches(turn)
        self.seconds += time.perf_counter() - started
        return batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._setup, name)


class _Measurement:
    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        device: torch.device,
        distributed: DistributedContext,
        show: StageProgress,
    ) -> None:
        self._recipe, self._run, self._device = recipe, run, device
        self._distributed, self._show = distributed, show
        self._turn_images = recipe.train.batch * recipe.game.batches_per_turn
        self._memory = PeakMemory(device)
        self._metrics = MetricWindow(distributed)

    def measure(self, *, override: bool) -> DryRun:
        recipe, run = self._recipe, self._run
        started = time.perf_counter()
        prepared = prepare(recipe, run, self._distributed, override=override, creates_folder=False)
        opened = time.perf_counter() - started
        precision = recipe.device.pick_precision(self._device)
        setup = recipe.game.set_up(
            recipe, prepared.data, self._device, precision, self._distributed
        )
        notes: list[str] = []
        checkpoint = None
        if run.is_resumed:
            checkpoint = Checkpoint.load(run.checkpoint_path, self._device)
            checkpoint.restore(setup.game, run.checkpoint_path)
        elif fine_tuned := start_from_weights(recipe, setup.game.weights, setup.class_names):
            notes += summary_lines(fine_tuned)
        turn, images = (checkpoint.turn, checkpoint.images) if checkpoint else (0, 0)

        tables = self._record_layers(setup, turn, images)
        phases = self._phases(setup, turn, images)
        sheets, sheet_bytes = self._sheets(setup, images)
        checkpoints, checkpoint_bytes = self._checkpoints(setup, turn, images)
        return DryRun(
            run=str(run.folder),
            resumes_at=images if checkpoint else None,
            images=recipe.train.images,
            changes=tuple(str(change) for change in prepared.changes),
            notes=tuple(notes),
            device=device_title(self._device),
            precision=precision,
            processes=self._distributed.world,
            data=_data(recipe, prepared, opened),
            players=_players(setup.game, tables),
            average_bytes=tensor_bytes(setup.game.weights["average"].state_dict()),
            peak_bytes=self._memory.bytes,
            peak_of=self._memory.kind,
            phases=phases,
            sheets=sheets,
            checkpoints=checkpoints,
            evaluations=self._evaluations(setup, images),
            checkpoint_bytes=checkpoint_bytes,
            checkpoint_files=2 if recipe.evaluate else 1,
            sheets_bytes=sheets.times * sheet_bytes,
            free_bytes=_free_bytes(run.folder),
        )

    def _record_layers(self, setup: GameSetup, turn: int, images: int) -> dict[str, LayerTable]:
        """Play a turn at the last phase, in which the networks have their full size."""
        last = max([images, *self._cost_changes()])
        players = {name: net for name, net in setup.game.weights.items() if name != "average"}
        with recorded_layers(players) as tables:
            self._play(setup, turn, last)
        return tables

    def _phases(self, setup: GameSetup, turn: int, images: int) -> tuple[Phase, ...]:
        total = self._recipe.train.images // self._turn_images * self._turn_images
        changes = [at for at in self._cost_changes() if images < at < total]
        bounds = [images, *changes, total]
        phases = []
        for number, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                stage = f"phase {number + 1} of {len(bounds) - 1}" if changes else "turns"
                phases.append(self._phase(setup, turn, start, end, stage))
        return tuple(phases)

    def _cost_changes(self) -> list[int]:
        """Return the images seen at which turns begin to cost more or less, in order."""
        changes = set(self._recipe.game.cost_changes(self._recipe))
        if self._recipe.fine_tune:
            changes.add(self._recipe.fine_tune.freeze_generator_images)
        return sorted(changes - {0})

    def _phase(self, setup: GameSetup, turn: int, start: int, end: int, stage: str) -> Phase:
        period = self._recipe.game.turns_in_period
        turns = math.ceil(_TURNS / period) * period
        timed = _TimedSetup(setup)
        for number in range(_WARM_UP):
            self._play(setup, turn + number, start)
        self._synchronize()
        started = time.perf_counter()
        with self._memory.measured():
            for number in range(turns):
                self._play(timed, turn + _WARM_UP + number, start)
                self._show(stage, number + 1, turns)
            self._synchronize()
        seconds = time.perf_counter() - started
        self._metrics.take()
        return Phase(
            from_images=start,
            to_images=end,
            turns=turns,
            images_per_second=turns * self._turn_images / seconds,
            data_share=timed.seconds / seconds,
        )

    def _play(self, setup: GameSetup | _TimedSetup, turn: int, images: int) -> None:
        seed = self._recipe.train.seed
        self._metrics.add(play_turn(setup, seed, turn, images, self._distributed))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _sheets(self, setup: GameSetup, images: int) -> tuple[Repeated, int]:
        """Return the cost of the sample sheets, and the bytes of one."""
        if not self._distributed.is_main:
            return Repeated(0, 0.0), 0
        file = io.BytesIO()

        def sample() -> None:
            sheet, _ = setup.sample_sheet()
            sheet.save(file, "PNG")

        seconds = _seconds(sample)
        times = self._times(self._recipe.train.sample_images, images)
        return Repeated(times, seconds), len(file.getvalue())

    def _checkpoints(self, setup: GameSetup, turn: int, images: int) -> tuple[Repeated, int]:
        """Return the cost of the checkpoints without that of the disk, and the bytes of one."""
        if not self._distributed.is_main:
            return Repeated(0, 0.0), 0
        started = time.perf_counter()
        checkpoint = Checkpoint(
            turn=turn,
            images=images,
            seconds=0.0,
            device=device_title(self._device),
            code_revision="",
            class_names=list(setup.class_names),
            game=setup.game.state_dict(),
        )
        size = checkpoint.size()
        seconds = time.perf_counter() - started
        times = self._times(self._recipe.train.checkpoint_images, images)
        return Repeated(times, seconds), size

    def _evaluations(self, setup: GameSetup, images: int) -> Repeated:
        options = self._recipe.evaluate
        if options is None or not self._distributed.is_main:
            return Repeated(0, 0.0)
        self._show("evaluation", 0, None)
        evaluate = setup.validate(options)
        return Repeated(self._times(options.every_images, images), _seconds(evaluate))

    def _times(self, interval: int, images: int) -> int:
        """Return how often something is done every `interval` images, and at the end."""
        total = self._recipe.train.images // self._turn_images * self._turn_images
        if images >= total:
            return 0
        return total // interval - images // interval + (total % interval > 0)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _players(game: Game, tables: Mapping[str, LayerTable]) -> dict[str, Player]:
    optimizers = game.state_dict()["optimizers"]
    players = {}
    for name, table in tables.items():
        weights = list(game.weights[name].parameters())
        players[name] = Player(
            parameters=table.parameters,
            trained_parameters=sum(each.numel() for each in weights if each.requires_grad),
            weights_bytes=tensor_bytes(game.weights[name].state_dict()),
            optimizer_bytes=tensor_bytes(optimizers[name]["state"]),
            unlisted_parameters=table.unlisted_parameters,
            layers=tuple(asdict(layer) for layer in table.layers),
        )
    return players


def _data(recipe: Recipe, prepared: Preparation, seconds: float) -> dict[str, Any]:
    data = prepared.data
    return {
        "title": recipe.data.dataset_title,
        "kind": data.kind,
        "images": len(data),
        "classes": len(data.class_names),
        "summary": data.summary(),
        "warnings": data.warnings(),
        "fingerprint": data.fingerprint,
        "seconds_to_open": seconds,
        "decoded_bytes": data.decoded_bytes,
    }


def _free_bytes(folder: Path) -> int:
    existing = next(
        each for each in [folder.absolute(), *folder.absolute().parents] if each.exists()
    )
    return shutil.disk_usage(existing).free
