"""Images a second of training steps, against the same networks and batch as others train them.

DCGAN is compared with a plain loop that is written here; the others with a checkout each, which is
not part of this repository:

    python -m benchmarks.training dcgan
    python -m benchmarks.training stylegan2 --reference ../stylegan2-pytorch
    python -m benchmarks.training biggan --reference ../BigGAN-PyTorch
    python -m benchmarks.training cyclegan --reference ../pytorch-CycleGAN-and-pix2pix

Ours is the trainer's own turn, pictures from the disk's cache and signs included. Beside it, the
same turn on pictures that are always there already: what that is faster by, the data cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.table import Table

from benchmarks import references
from benchmarks.measure import Spread, in_turns, machine, ratios, tell
from training.distributed import DistributedContext
from training.games.setup import prepare_all, set_up
from training.monitoring.monitors import MetricWindow
from training.recipe.schema import Recipe
from training.trainer import play_turn

_PICTURES = 256
_SAID = {"summary": "for measuring", "train": {"batch": 1, "images": 10**9}}


class Family(StrEnum):
    """What is trained."""

    DCGAN = "dcgan"
    STYLEGAN2 = "stylegan2"
    BIGGAN = "biggan"
    CYCLEGAN = "cyclegan"


@dataclass(frozen=True)
class Case:
    """One comparison: a recipe of ours, and the same as others have it."""

    side: int
    batch: int
    # After so many turns everything that is done now and then has been done as often as usual.
    turns: int
    recipe: dict[str, object]
    reference: Callable[[Path | None], references.Step]


def _checkout(path: Path | None) -> Path:
    if path is None:
        raise typer.BadParameter("this family is compared with a checkout: --reference PATH")
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
    """Write pictures in a folder for each of five classes."""
    values = np.random.default_rng(0)
    for number in range(_PICTURES):
        place = folder / f"class-{number % 5}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.integers(0, 256, (side, side, 3), np.uint8)).save(place)


class Ours:
    """The trainer's turn on a case, with and without its pictures being fetched."""

    def __init__(self, case: Case, folder: Path) -> None:
        data = {"path": str(folder), "resolution": case.side, "channels": 3, "flip": True}
        said = {**_SAID, **case.recipe, "data": data}
        said["train"] = {"batch": case.batch, "images": 10**9}
        if said.get("game", {}).get("kind") == "unpaired":
            said["source"] = data
        recipe = Recipe.model_validate(said)
        device = recipe.device.pick_device()
        self.precision = recipe.device.pick_precision(device)
        self._share = DistributedContext()
        self._setup = set_up(recipe, prepare_all(recipe), device, self.precision, self._share)
        self._draw_batch = self._setup.deal
        self._dealt = self._draw_batch(0)
        self._signs = MetricWindow(self._share)
        self._batch, self._turn = case.batch, 0

    def turn(self) -> None:
        """Play a turn as the trainer does."""
        self._setup.deal = self._draw_batch  # type: ignore[method-assign]
        self._play()

    def turn_on_the_same(self) -> None:
        """Play a turn on pictures that are there already."""
        self._setup.deal = lambda _: self._dealt  # type: ignore[method-assign]
        self._play()

    def _play(self) -> None:
        images = self._turn * self._batch
        self._signs.add(play_turn(self._setup, 0, self._turn, images, self._share))
        self._turn += 1


def images_per_second(step: Callable[[], object], case: Case) -> float:
    """Play a case's turns and return the real pictures a second."""
    began = time.perf_counter()
    for _ in range(case.turns):
        step()
    return case.turns * case.batch / (time.perf_counter() - began)


def main(
    family: Annotated[Family, typer.Argument()] = Family.DCGAN,
    reference: Annotated[
        Path | None, typer.Option(exists=True, help="A checkout of what to compare with.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    case = CASES[family]
    with tempfile.TemporaryDirectory() as name:
        write_noise_images(Path(name) / "pictures", case.side)
        ours, theirs = Ours(case, Path(name) / "pictures"), case.reference(reference)
        steps = {"ours": ours.turn, "without data": ours.turn_on_the_same, "theirs": theirs}
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
    table = Table("family", "batch", "times as fast", "without data", "images/s here")
    table.add_row(
        f"{family} {case.side}",
        str(case.batch),
        f"{ratios(rates['ours'], rates['theirs']):.2f}",
        f"{ratios(rates['without data'], rates['ours']):.3f}",
        ", ".join(f"{name} {Spread.of(each).median:.1f}" for name, each in rates.items()),
    )
    tell(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
