import pytest

from service.processes.process_count import FRONT_S, count_for


@pytest.mark.parametrize(
    ("seconds", "cpus", "expected"),
    [
        # The code around the inference is nearly all of the work.
        (FRONT_S / 100, 2, 2),
        (FRONT_S / 100, 16, 16),
        # As long as the inference.
        (FRONT_S, 2, 2),
        (FRONT_S, 16, 14),
        # A small part of the work.
        (FRONT_S * 10, 2, 1),
        (FRONT_S * 1000, 64, 1),
        (FRONT_S / 100, 1, 1),
    ],
)
def test_more_processes_for_faster_models_and_more_cpus(seconds, cpus, expected):
    assert count_for(seconds, cpus) == expected
