import pytest

from training.monitoring.progress import GrowingInterval, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (245, "4:05"),
        (3599.4, "59:59"),
        (3600, "1 h 0 min"),
        (11_550, "3 h 12 min"),
        (86_399, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_duration_has_the_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_interval_grows_up_to_the_longest(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("training.monitoring.progress.time.monotonic", lambda: now)
    interval = GrowingInterval(10, 60)
    due = []
    for _ in range(300):
        now += 1
        if interval.due():
            due.append(now - 1000)
    assert due == [10, 30, 70, 130, 190, 250]


def test_restart_counts_from_now(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("training.monitoring.progress.time.monotonic", lambda: now)
    interval = GrowingInterval(10, 60)
    now = 1009.0
    interval.restart()
    now = 1018.0
    assert not interval.due()
    now = 1019.0
    assert interval.due()
