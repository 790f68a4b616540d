"""Selects generated images by the score of the discriminator.

Of the candidates of a request or of a shard, a share is kept. Two methods choose it:

- `rank` keeps the candidates with the highest scores.
- `rejection` is discriminator rejection sampling (Azadi et al. 2018, arXiv:1810.06758): a candidate
  is accepted with a probability that rises with its score, so that less diversity is lost.

The classes of the images do not change. Image i has the class and the truncation that it has
without a selection, and candidates compete only with candidates of the same class and truncation.
The result depends on the candidates alone: on their seeds, conditions and scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent.sources import LatentSource
from service.runtime.models.parts.additions import ScoreCalibration

Method = Literal["rank", "rejection"]
MIN_SHARE = 0.001
# Keeps the logarithm in the acceptance probability finite, as in arXiv:1810.06758, section 3.2.
_EPSILON = 1e-14
# Separates the draw of a candidate's acceptance from other values derived from the same seed.
_ACCEPTANCE = 3


@dataclass(frozen=True)
class Selection:
    """The share of the candidates that is kept, from `MIN_SHARE` to 1, and the method."""

    share: float
    method: Method = "rank"

    def candidates(self, images: int) -> int:
        """Return the number of candidates of which `images` are kept."""
        # The decimal number that was given: in binary, 3 / 0.3 may be more than 10.
        return -(-images // Fraction(repr(self.share)))

    @property
    def candidates_per_image(self) -> int:
        """The largest number of candidates for one image."""
        return self.candidates(1)


@dataclass(frozen=True)
class CandidateGroup:
    """Candidates with the same class and truncation.

    Attributes:
        condition: a source with this class and truncation.
        seeds: the seeds of the candidates, which are consecutive.
        positions: the numbers of the images that are kept, in the order of the request.
    """

    condition: LatentSource
    seeds: range
    positions: tuple[int, ...]

    def sources(self) -> list[LatentSource]:
        """Return the candidates."""
        return [replace(self.condition, seed=seed) for seed in self.seeds]


def candidate_groups(
    sources: Sequence[LatentSource], first_seed: int, selection: Selection
) -> list[CandidateGroup]:
    """Return the candidates for the images of `sources`, the sources without a selection.

    The groups are in the order of their first images, and their candidates have consecutive seeds,
    starting at `first_seed`.
    """
    positions: dict[Hashable, list[int]] = {}
    for i, source in enumerate(sources):
        classes = None if source.classes is None else tuple(sorted(source.classes.items()))
        positions.setdefault((classes, source.truncation), []).append(i)
    groups, start = [], first_seed
    for numbers in positions.values():
        seeds = range(start, start + selection.candidates(len(numbers)))
        groups.append(CandidateGroup(sources[numbers[0]], seeds, tuple(numbers)))
        start = seeds.stop
    return groups


def kept_candidates(
    groups: Sequence[CandidateGroup],
    scores: NDArray[np.floating],
    selection: Selection,
    calibration: ScoreCalibration | None,
) -> list[int]:
    """Return the number of the candidate that is kept for each image.

    `scores` ``[candidates]`` are in the order of the groups; a candidate without a finite score is
    only kept if there are too few others. The candidates that are kept of a group are in the order
    of their seeds. Raises ValueError for the method `rejection` without a `calibration`.
    """
    kept = [0] * sum(len(group.positions) for group in groups)
    start = 0
    for group in groups:
        stop = start + len(group.seeds)
        keys = np.asarray(scores[start:stop], np.float64)
        keys = np.where(np.isfinite(keys), keys, -np.inf)
        if selection.method == "rejection":
            if calibration is None:
                raise ValueError("rejection sampling needs the calibration of the scores")
            keys = _acceptance(keys, calibration) - _thresholds(group.seeds)
        # A stable order: of equal keys, the smaller seeds are kept.
        best = np.sort(np.argsort(-keys, kind="stable")[: len(group.positions)])
        for position, number in zip(group.positions, best, strict=True):
            kept[position] = start + int(number)
        start = stop
    return kept


def _acceptance(scores: NDArray[np.float64], calibration: ScoreCalibration) -> NDArray[np.float64]:
    """Return the logits of the acceptance probabilities, up to a common constant.

    Equation 8 of arXiv:1810.06758 with γ = 0; γ is the constant. The largest score is estimated
    once, because the paper's running estimate depends on the order of the samples.
    """
    below = np.minimum(calibration.scale * (scores - calibration.maximum), 0.0)
    logits: NDArray[np.float64] = below - np.log1p(-np.exp(below - _EPSILON))
    return logits


def _thresholds(seeds: Sequence[int]) -> NDArray[np.float64]:
    """Return the logit of a uniform number for each seed.

    A sample is accepted if its acceptance logit, minus γ, exceeds this threshold. Keeping the
    samples with the largest differences is rejection sampling with the γ that accepts as many.
    """
    uniform = np.array([np.random.default_rng((seed, _ACCEPTANCE)).random() for seed in seeds])
    uniform = np.clip(uniform, 1e-300, None)
    logits: NDArray[np.float64] = np.log(uniform) - np.log1p(-uniform)
    return logits
