"""The estimate for all tiles of an image, from the tiles that have run."""

from service.api.image_to_image.completion_time import CompletionEstimate


def test_estimates_from_fastest_run():
    estimate = CompletionEstimate(100, 30)
    assert estimate.total == 0
    for rows, seconds, total in ((2, 4.0, 200), (2, 1.0, 50), (1, 30.0, 50)):
        estimate.add_run(rows, seconds)
        assert estimate.total == total


def test_refuses_large_excess_at_once_and_small_excess_later():
    assert not CompletionEstimate(1000, 30).is_too_slow
    estimate = CompletionEstimate(1000, 30)
    estimate.add_run(1, 0.2)
    assert estimate.is_too_slow

    estimate = CompletionEstimate(100, 30)
    estimate.add_run(2, 1.0)
    assert not estimate.is_too_slow
    for _ in range(7):
        estimate.add_run(2, 1.0)
    assert estimate.is_too_slow
    # Other load slowed the machine down until now.
    estimate.add_run(2, 0.4)
    assert not estimate.is_too_slow
