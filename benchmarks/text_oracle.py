"""Measure SeqGAN on its synthetic oracle: the adversarial phase against pre-training alone.

Yu et al. 2017, arXiv:1609.05473, section 4. Every seed trains `seqgan-oracle`, or resumes its run:

    python -m benchmarks.text_oracle --out runs/oracle --seed 0 --seed 1 --seed 2
    python -m benchmarks.text_oracle --out runs/oracle --only-report game.rollouts=4

Two references stand beside the negative log-likelihood of samples under the oracle after the
adversarial phase: the last and the lowest value of the maximum-likelihood phase. The lowest one was
chosen among many evaluations, which favors maximum likelihood. A low value alone does not show a
good generator: less diverse samples have it, too, so the likelihood of held-out data is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from training.games.text.options import TextOptions
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

_RECIPE = "seqgan-oracle"


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


def main(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs/oracle"),
    seed: Annotated[list[int] | None, typer.Option(help="Seeds.  [default: 0, 1, 2]")] = None,
    only_report: Annotated[bool, typer.Option("--only-report", help="Train nothing.")] = False,
) -> None:
    """Train the seeds and print a table."""
    gaps = []
    print("seed  ML last  ML lowest  adversarial last  lowest  gain   held-out ML  adversarial")
    for number in seed or [0, 1, 2]:
        recipe = load_recipe(_RECIPE, [*(overrides or []), f"train.seed={number}"])
        run = Run(out / f"seed-{number}")
        if not only_report:
            train(recipe, run)
        game = run.recipe().game
        assert isinstance(game, TextOptions)
        gap = gap_of(run.read_log(), game.pretrain_images, game.adversarial_from)
        gaps.append(gap)
        print(
            f"{number:4}  {gap.last_pretrained:7.3f}  {gap.lowest_pretrained:9.3f}  "
            f"{gap.last:16.3f}  {gap.lowest:6.3f}  {gap.gain:+.3f}  {gap.held_out_pretrained:11.3f}"
            f"  {gap.held_out:11.3f}"
        )
    gains = [gap.gain for gap in gaps]
    spread = f" ± {statistics.stdev(gains):.3f}" if len(gains) > 1 else ""
    print(f"gain: {statistics.mean(gains):+.3f}{spread} nats per token over {len(gains)} seeds")


if __name__ == "__main__":
    typer.run(main)
