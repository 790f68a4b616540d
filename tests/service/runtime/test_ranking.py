import numpy as np
import pytest

from service.runtime.latent.sources import LatentSource
from service.runtime.models.parts.additions import ScoreCalibration
from service.runtime.ranking import Selection, candidate_groups, kept_candidates

CALIBRATION = ScoreCalibration(scale=1.0, maximum=3.0, samples=100)
RANK = Selection(0.25)
REJECTION = Selection(0.25, "rejection")


def sources(*classes: int, truncation: float | None = None) -> list[LatentSource]:
    return [
        LatentSource(i, classes={index: 1.0}, truncation=truncation)
        for i, index in enumerate(classes)
    ]


def one_group(images: int, share: float, first: int = 0):
    return candidate_groups([LatentSource(i) for i in range(images)], first, Selection(share))


@pytest.mark.parametrize(
    ("images", "share", "candidates"),
    [(1, 1.0, 1), (4, 0.25, 16), (3, 0.3, 10), (1, 0.3, 4), (7, 0.1, 70), (2, 0.001, 2000)],
)
def test_candidates_are_counted_in_decimal(images, share, candidates):
    assert Selection(share).candidates(images) == candidates


def test_candidates_of_all_groups_have_consecutive_seeds():
    groups = candidate_groups(sources(2, 0, 2, 1), 7, RANK)
    assert [(group.seeds, group.positions) for group in groups] == [
        (range(7, 15), (0, 2)),
        (range(15, 19), (1,)),
        (range(19, 23), (3,)),
    ]
    assert [source.classes for source in groups[0].sources()] == [{2: 1.0}] * 8
    assert [source.seed for source in groups[2].sources()] == [19, 20, 21, 22]


def test_truncation_separates_groups():
    images = [*sources(1, truncation=0.5), *sources(1, truncation=0.7)]
    assert len(candidate_groups(images, 0, RANK)) == 2


def test_rank_keeps_the_best_in_the_order_of_their_seeds():
    scores = np.array([0, 5, 1, 9, 2, 3, 8, 4])
    assert kept_candidates(one_group(2, 0.25), scores, RANK, None) == [3, 6]


def test_classes_do_not_compete():
    groups = candidate_groups(sources(0, 1, 0, 1), 0, RANK)
    scores = np.arange(16.0)
    kept = kept_candidates(groups, scores, RANK, None)
    assert kept == [6, 14, 7, 15]


def test_of_equal_scores_the_smaller_seeds_are_kept():
    assert kept_candidates(one_group(2, 0.25), np.zeros(8), RANK, None) == [0, 1]


@pytest.mark.parametrize("selection", [RANK, REJECTION])
def test_scores_that_are_not_finite_are_kept_last(selection):
    scores = np.array([np.nan, np.inf, 1, -np.inf, 0, np.nan, -1, 2])
    kept = kept_candidates(one_group(4, 0.5), scores, selection, CALIBRATION)
    assert kept == [2, 4, 6, 7]
    assert kept_candidates(one_group(2, 1.0), scores[:2], selection, CALIBRATION) == [0, 1]


def test_a_share_of_one_keeps_all():
    for selection in (Selection(1.0), Selection(1.0, "rejection")):
        scores = np.random.default_rng(0).normal(size=9)
        kept = kept_candidates(one_group(9, 1.0), scores, selection, CALIBRATION)
        assert kept == list(range(9))


def test_rejection_is_the_sampling_of_the_paper_with_the_gamma_that_accepts_as_many():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=400)
    calibration = ScoreCalibration(scale=1.0, maximum=float(scores.max()), samples=400)
    kept = kept_candidates(one_group(100, 0.25), scores, REJECTION, calibration)
    # Equation 8 of arXiv:1810.06758.
    below = scores - calibration.maximum
    without_gamma = below - np.log(1 - np.exp(below - 1e-14))
    uniform = np.array([np.random.default_rng((seed, 3)).random() for seed in range(400)])

    def accepted(gamma: float) -> list[int]:
        probability = 1 / (1 + np.exp(-(without_gamma - gamma)))
        return np.flatnonzero(uniform < probability).tolist()

    low, high = -20.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if len(accepted(middle)) > 100 else (low, middle)
    assert accepted(high) == kept


def test_rejection_keeps_more_variety_than_rank():
    scores = np.random.default_rng(1).normal(size=4000)
    ranked = kept_candidates(one_group(1000, 0.25), scores, RANK, None)
    drawn = kept_candidates(one_group(1000, 0.25), scores, REJECTION, CALIBRATION)
    assert scores.mean() < scores[drawn].mean() < scores[ranked].mean()
    assert scores[drawn].std() > scores[ranked].std()
    assert scores[drawn].min() < scores[ranked].min()


def test_acceptance_depends_on_the_seed_alone():
    scores = np.zeros(40)
    first = kept_candidates(one_group(10, 0.25), scores, REJECTION, CALIBRATION)
    shifted = kept_candidates(one_group(10, 0.25, first=1000), scores, REJECTION, CALIBRATION)
    assert first == kept_candidates(one_group(10, 0.25), scores, REJECTION, CALIBRATION)
    assert first != shifted


def test_rejection_accepts_scores_above_the_largest_known_one_first():
    scores = np.full(400, -2.0)
    scores[[13, 200, 399]] = 50.0
    kept = kept_candidates(one_group(100, 0.25), scores, REJECTION, CALIBRATION)
    assert {13, 200, 399} <= set(kept)


def test_rejection_needs_a_calibration():
    with pytest.raises(ValueError, match="calibration"):
        kept_candidates(one_group(2, 0.25), np.zeros(8), REJECTION, None)
