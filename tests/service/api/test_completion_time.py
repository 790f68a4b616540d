"""What the first tiles tell of all of them."""

from service.api.completion_time import Pace


def test_the_fastest_run_tells_how_long_all_rows_take():
    pace = Pace(100, 30)
    assert pace.total == 0
    for rows, seconds, total in ((2, 4.0, 200), (2, 1.0, 50), (1, 30.0, 50)):
        pace.ran(rows, seconds)
        assert pace.total == total


def test_what_is_far_too_slow_is_known_at_once_and_what_is_nearer_later():
    assert not Pace(1000, 30).is_too_slow
    pace = Pace(1000, 30)
    pace.ran(1, 0.2)
    assert pace.is_too_slow

    pace = Pace(100, 30)
    pace.ran(2, 1.0)
    assert not pace.is_too_slow
    for _ in range(7):
        pace.ran(2, 1.0)
    assert pace.is_too_slow
    # Somebody else had the machine until now.
    pace.ran(2, 0.4)
    assert not pace.is_too_slow
