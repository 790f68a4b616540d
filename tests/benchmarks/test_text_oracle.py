"""The gap between pre-training and the adversarial phase, from the log of a run."""

import pytest

from benchmarks.text_oracle import curve_of, gap_of

LOG = [
    {"images": 10, "oracle_nll": 5.0, "held_out_nll": 4.0},
    {"images": 20, "oracle_nll": 4.5, "held_out_nll": 3.8},
    {"images": 30, "oracle_nll": 4.6, "held_out_nll": 3.9},
    {"images": 40, "oracle_nll": 4.6, "held_out_nll": 3.9},
    {"images": 45, "loss_generator": 0.1},
    {"images": 50, "oracle_nll": 4.2, "held_out_nll": 4.0},
    {"images": 60, "oracle_nll": 4.3, "held_out_nll": 4.1},
]


def test_phases_are_separated():
    gap = gap_of(LOG, 30, 40)
    assert (gap.last_pretrained, gap.lowest_pretrained) == (4.6, 4.5)
    assert (gap.last, gap.lowest, gap.held_out) == (4.3, 4.2, 4.1)
    assert gap.gain == pytest.approx(0.3)


def test_run_without_the_adversarial_phase_is_refused():
    with pytest.raises(ValueError, match="has not reached its adversarial phase"):
        gap_of(LOG[:4], 30, 40)


def test_curve_has_the_points_of_all_runs():
    higher = [entry | {"oracle_nll": entry["oracle_nll"] + 2} for entry in LOG if len(entry) == 3]
    first, *_, last = curve_of([LOG, higher[:-1]], 40)
    assert (first.images, last.images) == (40, 50)
    assert first.oracle_nll == pytest.approx((5.6, 2**0.5))
    assert first.held_out_nll == pytest.approx((3.9, 0))
