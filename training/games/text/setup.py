"""Setup of the game of text: the game with its data, sample sheets and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from PIL import Image
from torch import Tensor, nn

from training.data.sampler import ShuffledRows
from training.data.text.corpus import TextData
from training.data.text.oracle import Oracle
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.errors import QualityError
from training.games.text.game import TextGame
from training.games.text.options import TextOptions
from training.preview.text import text_sheet
from training.recipe.errors import RecipeError
from training.recipe.schema import Recipe

_SHOWN = 40
# Sequences whose likelihood is measured with each sample sheet.
_MEASURED = 2_000
_ROWS = 256


class TextSetup:
    """The game together with its data."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        options: TextOptions,
        data: TextData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        if distributed.world > 1 and options.adversary == "gumbel":
            raise RecipeError("game.adversary gumbel trains in one process only")
        self.game = TextGame(recipe, options, data, device, precision, distributed)
        self.data = data
        self._device, self._distributed = device, distributed
        self._rows = ShuffledRows(len(data), recipe.train.batch, recipe.train.seed)
        self._tokens = torch.from_numpy(data.tokens)
        self._training_lines = frozenset(data.lines) if data.ends else frozenset()
        self._oracle = Oracle(options.oracle) if options.oracle else None

    def batches(self, turn: int) -> list[Tensor]:
        """Return this process's real sequences of a turn, ``[N, T] int64`` each."""
        count = self.game.batches_per_turn
        batches = []
        for number in range(turn * count, (turn + 1) * count):
            rows = torch.from_numpy(self._rows[number])
            part = self._distributed.part(self._tokens[rows])
            batches.append(part.to(self._device, non_blocking=True))
        return batches

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return sampled lines of the averaged generator as an image, and their metrics.

        The samples are always drawn from the same random numbers.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            samples = self._sample(_MEASURED if measure else _SHOWN)
        lines = [self.data.vocabulary.join(row) for row in samples[:_SHOWN].tolist()]
        if self._oracle:
            lines = [" ".join(map(str, row)) for row in samples[:_SHOWN].tolist()]
        return text_sheet(lines), self._metrics(samples) if measure else {}

    def _sample(self, count: int) -> Tensor:
        sampler = self.game.sampler(self.game.average.eval())
        parts = [sampler.sample(min(_ROWS, count - start)) for start in range(0, count, _ROWS)]
        return torch.cat(parts).cpu()

    def _metrics(self, samples: Tensor) -> dict[str, float]:
        metrics = {}
        if len(self.data.held_out):
            metrics["held_out_nll"] = self.held_out_nll(self.game.average)
        if self._oracle:
            metrics["oracle_nll"] = self._oracle.negative_log_likelihood(samples)
            return metrics
        lines = [self.data.vocabulary.join(row) for row in samples.tolist()]
        # The shares of different samples, and of samples that are lines of the training split.
        metrics["distinct"] = len(set(lines)) / len(lines)
        metrics["known"] = sum(line in self._training_lines for line in lines) / len(lines)
        return metrics

    @torch.no_grad()
    def held_out_nll(self, generator: nn.Module) -> float:
        """Return the mean negative log-likelihood of held-out tokens, in nats.

        Raises QualityError without held-out sequences.
        """
        rows = torch.from_numpy(self.data.held_out)
        if not len(rows):
            raise QualityError("the corpus has no held-out sequences")
        generator.eval()
        total, tokens = 0.0, 0
        for part in torch.split(rows, _ROWS):
            some = part.to(self._device)
            count = self.game.token_count(some)
            total += float(self.game.negative_log_likelihood(generator, some)) * count
            tokens += count
        return total / tokens

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:  # noqa: ARG002
        """Return a function that measures the averaged generator on held-out sequences."""
        return lambda: {"nll": self.held_out_nll(self.game.average)}
