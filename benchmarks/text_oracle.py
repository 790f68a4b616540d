"""Measure SeqGAN on its synthetic oracle: the adversarial phase against pre-training alone.

Yu et al. 2017, arXiv:1609.05473, section 4. Every seed trains `seqgan-oracle`, or resumes its run:

    python -m benchmarks.text_oracle --out runs/oracle --seed 0 --seed 1 --seed 2
    python -m benchmarks.text_oracle --out runs/oracle --only-report game.rollouts=4

Two references stand beside the negative log-likelihood of samples under the oracle after the
adversarial phase: the last and the lowest value of the maximum-likelihood phase. The lowest one was
chosen among many evaluations, which favors maximum likelihood. A low value alone does not show a
good generator: less diverse samples have it, too. Therefore the likelihood of held-out data is
reported, and the maximum-likelihood generators at lower temperatures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch.nn import functional as F

from training.checkpoints import Checkpoint
from training.data.text.oracle import Oracle
from training.games.text.generation import Sampler, inputs_of
from training.games.text.options import TextOptions
from training.networks.text.recurrent import RecurrentGenerator
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

_RECIPE = "seqgan-oracle"
_TEMPERATURES = (1.0, 0.95, 0.9, 0.8)
_SAMPLES = 2_000


@dataclass(frozen=True)
class Gap:
    """The likelihoods of one run, in nats per token."""

    last_pretrained: float
    lowest_pretrained: float
    lowest: float
    last: float
    held_out_pretrained: float
    held_out: float

    @property
    def gain(self) -> float:
        """How much lower the oracle's NLL is at the end than after pre-training."""
        return self.last_pretrained - self.last


def gap_of(log: Sequence[Mapping[str, Any]], pretrain_images: int, adversarial_from: int) -> Gap:
    """Return the likelihoods in the log of a run. Raises ValueError if a phase is missing."""
    measured = [entry for entry in log if "oracle_nll" in entry]
    before = [entry for entry in measured if entry["images"] <= pretrain_images]
    after = [entry for entry in measured if entry["images"] > adversarial_from]
    if not before or not after:
        raise ValueError("the run has not reached its adversarial phase, or was not measured in it")
    return Gap(
        last_pretrained=before[-1]["oracle_nll"],
        lowest_pretrained=min(entry["oracle_nll"] for entry in before),
        lowest=min(entry["oracle_nll"] for entry in after),
        last=after[-1]["oracle_nll"],
        held_out_pretrained=before[-1]["held_out_nll"],
        held_out=after[-1]["held_out_nll"],
    )


@dataclass(frozen=True)
class CurvePoint:
    """Likelihoods after `images` sequences: mean and standard deviation over the runs."""

    images: int
    oracle_nll: tuple[float, float]
    held_out_nll: tuple[float, float]


def curve_of(logs: Sequence[Sequence[Mapping[str, Any]]], from_images: int) -> list[CurvePoint]:
    """Return the points from `from_images` on that all of the runs were measured at."""
    measured = [
        {e["images"]: (e["oracle_nll"], e["held_out_nll"]) for e in log if "oracle_nll" in e}
        for log in logs
    ]
    common = set.intersection(*(set(points) for points in measured))
    curve = []
    for images in sorted(each for each in common if each >= from_images):
        oracle, held_out = zip(*(points[images] for points in measured), strict=True)
        curve.append(CurvePoint(images, _spread(oracle), _spread(held_out)))
    return curve


def at_temperature(run: Run, temperature: float) -> tuple[float, float]:
    """Return the oracle's NLL of samples of a run's maximum-likelihood generator, and that of
    held-out data under the generator, in nats per token.
    """
    recipe = run.recipe()
    game = recipe.game
    assert isinstance(game, TextOptions)
    assert game.oracle is not None
    generator = cast("RecurrentGenerator", recipe.build_generator()).eval()
    generator.load_state_dict(Checkpoint.load(run.checkpoint_path).game["pretrained"])
    oracle = Oracle(game.oracle)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        generator.output.weight.div_(temperature)
        generator.output.bias.div_(temperature)
        torch.manual_seed(0)
        samples = Sampler(generator, game.tokens, game.length, ends=False).sample(_SAMPLES)
        held_out = torch.from_numpy(oracle.data().held_out)
        nll = F.cross_entropy(generator(inputs_of(held_out)).flatten(0, 1), held_out.flatten())
    return oracle.negative_log_likelihood(samples), float(nll)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _row(*spreads: tuple[float, float]) -> str:
    return "   ".join(f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in spreads)


def main(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs/oracle"),
    seed: Annotated[list[int] | None, typer.Option(help="Seeds.  [default: 0, 1, 2]")] = None,
    only_report: Annotated[bool, typer.Option("--only-report", help="Train nothing.")] = False,
) -> None:
    """Train the seeds and print the gains, the curve and the temperatures."""
    gaps, logs, runs, begin = [], [], [], 0
    print("seed  ML last  ML lowest  adversarial last  lowest  gain   held-out ML  adversarial")
    for number in seed or [0, 1, 2]:
        recipe = load_recipe(_RECIPE, [*(overrides or []), f"train.seed={number}"])
        run = Run(out / f"seed-{number}")
        if not only_report:
            train(recipe, run)
        game = run.recipe().game
        assert isinstance(game, TextOptions)
        log, begin = run.read_log(), game.adversarial_from
        gap = gap_of(log, game.pretrain_images, begin)
        gaps.append(gap)
        logs.append(log)
        runs.append(run)
        print(
            f"{number:4}  {gap.last_pretrained:7.3f}  {gap.lowest_pretrained:9.3f}  "
            f"{gap.last:16.3f}  {gap.lowest:6.3f}  {gap.gain:+.3f}  {gap.held_out_pretrained:11.3f}"
            f"  {gap.held_out:11.3f}"
        )
    print("\nsequences in the adversarial phase   oracle NLL        held-out NLL")
    for point in curve_of(logs, begin):
        print(f"{point.images - begin:34,}   {_row(point.oracle_nll, point.held_out_nll)}")
    print("\nmaximum likelihood at temperature    oracle NLL        held-out NLL")
    for temperature in _TEMPERATURES:
        oracle_nll, held_out_nll = zip(
            *(at_temperature(run, temperature) for run in runs), strict=True
        )
        print(f"{temperature:34}   {_row(_spread(oracle_nll), _spread(held_out_nll))}")
    mean, deviation = _spread([gap.gain for gap in gaps])
    print(f"gain: {mean:+.3f} ± {deviation:.3f} nats per token over {len(gaps)} seeds")


if __name__ == "__main__":
    typer.run(main)
