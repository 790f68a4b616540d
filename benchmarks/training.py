"""Compare training throughput with other implementations of the same networks and batch sizes.

DCGAN is compared with a plain loop written here, the others with checkouts that are not part of
this repository:

    python -m benchmarks.training dcgan
    python -m benchmarks.training stylegan2 --reference ../stylegan2-pytorch
    python -m benchmarks.training biggan --reference ../BigGAN-PyTorch
    python -m benchmarks.training cyclegan --reference ../pytorch-CycleGAN-and-pix2pix

Ours is one turn of the trainer, including data loading and metrics. The same turn on a fixed batch
shows the cost of data loading.

With `--recipe`, included recipes train on their own data instead, and the share of the data
pipeline in a turn is measured: the time in which a turn waits for its batch.

    python -m benchmarks.training --recipe gan-mnist --recipe stylegan2-flowers
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.table import Table

from benchmarks import references
from benchmarks.measure import Spread, in_turns, machine, ratios, report
from training.distributed import DistributedContext
from training.monitoring.metrics import MetricWindow
from training.recipe.loading import load_recipe
from training.recipe.schema import Recipe
from training.trainer import play_turn

_IMAGES = 256
_BASE_RECIPE = {"summary": "benchmark", "train": {"batch": 1, "images": 10**9}}


class Family(StrEnum):
    """A family of networks."""

    DCGAN = "dcgan"
    STYLEGAN2 = "stylegan2"
    BIGGAN = "biggan"
    CYCLEGAN = "cyclegan"


@dataclass(frozen=True)
class Case:
    """One comparison: our recipe, and the same network in another implementation."""

    side: int
    batch: int
    # A whole number of periods of the lazy penalties.
    turns: int
    recipe: dict[str, object]
    reference: Callable[[Path | None], references.Step]


def _checkout(path: Path | None) -> Path:
    if path is None:
        raise typer.BadParameter("this family needs a checkout to compare with: --reference PATH")
    return path


def _adam(rate: float, *betas: float) -> dict[str, object]:
    both = {"learning_rate": rate, "betas": list(betas)}
    return {"generator": both, "discriminator": both}


CASES = {
    Family.DCGAN: Case(
        side=64,
        batch=64,
        turns=4,
        recipe={
            "generator": {"network": "dcgan", "z_dim": 100, "width": 64},
            "discriminator": {"network": "dcgan", "width": 64},
        },
        reference=lambda _: references.dcgan(64, 64, 100, 64),
    ),
    Family.STYLEGAN2: Case(
        side=32,
        batch=4,
        turns=16,
        recipe={
            "game": {
                "r1": 10.0,
                "penalty_every": 16,
                "path_length": 2.0,
                "path_length_every": 4,
                "style_mixing": 0.9,
            },
            "generator": {
                "network": "stylegan2",
                "z_dim": 128,
                "w_dim": 128,
                "mapping_layers": 4,
                "width": 128,
                "most": 128,
            },
            "discriminator": {"network": "stylegan2", "width": 128, "most": 128},
            "optimizer": _adam(0.002, 0.0, 0.99),
        },
        reference=lambda path: references.stylegan2(_checkout(path), 4, 32, 128, 128),
    ),
    Family.BIGGAN: Case(
        side=32,
        batch=32,
        turns=4,
        recipe={
            "classes": 5,
            "game": {"loss": "hinge"},
            "generator": {"network": "biggan", "z_dim": 80, "class_width": 64, "width": 16},
            "discriminator": {"network": "biggan", "width": 16},
            "optimizer": _adam(2e-4, 0.0, 0.999),
        },
        reference=lambda path: references.biggan(_checkout(path), 32, 32, 80, 16),
    ),
    Family.CYCLEGAN: Case(
        side=64,
        batch=4,
        turns=3,
        recipe={
            "game": {"kind": "unpaired"},
            "generator": {"network": "resnet", "width": 32, "blocks": 6},
            "discriminator": {"network": "patchgan", "width": 32, "normalisation": "instance"},
            "optimizer": _adam(2e-4, 0.5, 0.999),
        },
        reference=lambda path: references.cyclegan(_checkout(path), 4, 64, 32),
    ),
}


def write_noise_images(folder: Path, side: int) -> None:
    """Write noise images into one folder for each of five classes."""
    rng = np.random.default_rng(0)
    for number in range(_IMAGES):
        path = folder / f"class-{number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)


def recipe_of(case: Case, folder: Path) -> Recipe:
    """Return the recipe of a case with the images in `folder`."""
    data = {"path": str(folder), "resolution": case.side, "channels": 3, "flip": True}
    fields = {**_BASE_RECIPE, **case.recipe, "data": data}
    fields["train"] = {"batch": case.batch, "images": 10**9}
    if fields.get("game", {}).get("kind") == "unpaired":
        fields["source"] = data
    return Recipe.model_validate(fields)


class Ours:
    """The trainer's turn of a recipe, with and without data loading."""

    def __init__(self, recipe: Recipe) -> None:
        device = recipe.device.pick_device()
        self.precision = recipe.device.pick_precision(device)
        self._share = DistributedContext()
        data_images = recipe.game.prepare_data(recipe)
        self._setup = recipe.game.set_up(recipe, data_images, device, self.precision, self._share)
        self._draw_batch = self._setup.batches
        self._fixed_batch = self._draw_batch(0)
        self._metrics = MetricWindow(self._share)
        self._batch, self._turn = recipe.train.batch, 0
        # Seconds, and seconds of CPU time, in which turns have drawn their batches.
        self.drawn_s = self.drawn_cpu_s = 0.0

    def turn(self) -> None:
        """Run one turn including data loading."""
        self._setup.batches = self._timed_batch  # type: ignore[method-assign]
        self._play()

    def turn_on_fixed_batch(self) -> None:
        """Run one turn on a fixed batch."""
        self._setup.batches = lambda _: self._fixed_batch  # type: ignore[method-assign]
        self._play()

    def _timed_batch(self, turn: int) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        batch = self._draw_batch(turn)
        self.drawn_s += time.perf_counter() - started
        self.drawn_cpu_s += time.process_time() - cpu
        return batch

    def take_metrics(self) -> dict[str, float]:
        """Return the mean metrics since the last call. Raises TrainingDiverged."""
        return self._metrics.take()

    def _play(self) -> None:
        images = self._turn * self._batch
        self._metrics.add(play_turn(self._setup, 0, self._turn, images, self._share))
        self._turn += 1


def images_per_second(step: Callable[[], object], case: Case) -> float:
    """Run the turns of a case and return real images per second."""
    started = time.perf_counter()
    for _ in range(case.turns):
        step()
    return case.turns * case.batch / (time.perf_counter() - started)


def data_share(name: str, overrides: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Return the share of the data pipeline in the turns of an included recipe, on its own data.

    `share` is of the elapsed time, and `cpu_share` of the CPU time of the process, which other
    load on the machine affects less.
    """
    recipe = load_recipe(name, overrides)
    ours = Ours(recipe)
    for _ in range(3):
        ours.turn()
    shares, cpu_shares, turns_s, drawn_s = [], [], [], []
    for _ in range(rounds):
        ours.drawn_s = ours.drawn_cpu_s = 0.0
        turns, started, cpu = 0, time.perf_counter(), time.process_time()
        # Whole periods of lazy penalties, of at most 16 turns.
        while not turns or turns % 16 or time.perf_counter() - started < seconds:
            ours.turn()
            turns += 1
        # Waits for the device, if there is one.
        ours.take_metrics()
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
        shares.append(ours.drawn_s / elapsed)
        cpu_shares.append(ours.drawn_cpu_s / cpu)
        turns_s.append(elapsed / turns)
        drawn_s.append(ours.drawn_s / turns)
        shown = f"{shares[-1]:.2%} of the time and {cpu_shares[-1]:.2%} of the CPU time"
        print(f"{name}: {turns} turns, {shown} for data", file=sys.stderr)
    return {
        "recipe": name,
        "batch": recipe.train.batch,
        "precision": ours.precision,
        "share": Spread.of(shares).as_json(),
        "cpu_share": Spread.of(cpu_shares).as_json(),
        "turn_ms": Spread.of([1000 * s for s in turns_s]).as_json(),
        "data_ms": Spread.of([1000 * s for s in drawn_s]).as_json(),
    }


def main(
    family: Annotated[Family, typer.Argument()] = Family.DCGAN,
    reference: Annotated[
        Path | None, typer.Option(exists=True, help="The checkout to compare with.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    recipe: Annotated[
        list[str],
        typer.Option(help="Measure the share of data in an included recipe; may be repeated."),
    ] = [],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="Per recipe and round.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    if recipe:
        rows = [data_share(name, [], rounds, seconds) for name in recipe]
        shares = Table(
            "recipe", "batch", "precision", "share of data", "of CPU time", "ms per turn", "data ms"
        )
        for row in rows:
            cells = [f"{Spread(**row[key]):.2%}" for key in ("share", "cpu_share")]
            cells += [f"{Spread(**row[key]):.2f}" for key in ("turn_ms", "data_ms")]
            shares.add_row(row["recipe"], str(row["batch"]), row["precision"], *cells)
        threads = torch.get_num_threads()
        result = {"rows": rows, "threads": threads, "machine": machine(("torch", "numpy"))}
        report(result, [shares], as_json=as_json)
        return
    case = CASES[family]
    with tempfile.TemporaryDirectory() as name:
        write_noise_images(Path(name) / "images", case.side)
        ours, theirs = Ours(recipe_of(case, Path(name) / "images")), case.reference(reference)
        steps = {"ours": ours.turn, "without data": ours.turn_on_fixed_batch, "theirs": theirs}
        for step in steps.values():
            step()
        rates = in_turns(
            {name: lambda step=step: images_per_second(step, case) for name, step in steps.items()},
            rounds,
        )
    result = {
        "family": family.value,
        "side": case.side,
        "batch": case.batch,
        "precision": ours.precision,
        "faster": ratios(rates["ours"], rates["theirs"]).as_json(),
        "data_costs": ratios(rates["without data"], rates["ours"]).as_json(),
        "images_per_second": {name: Spread.of(each).as_json() for name, each in rates.items()},
        "threads": torch.get_num_threads(),
        "machine": machine(("torch", "numpy")),
    }
    table = Table("family", "batch", "relative speed", "without data", "images/s")
    table.add_row(
        f"{family} {case.side}",
        str(case.batch),
        f"{ratios(rates['ours'], rates['theirs']):.2f}",
        f"{ratios(rates['without data'], rates['ours']):.3f}",
        ", ".join(f"{name} {Spread.of(each).median:.1f}" for name, each in rates.items()),
    )
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
