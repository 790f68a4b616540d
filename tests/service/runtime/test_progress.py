"""Progress on a terminal and in a log file, by a manual clock."""

import io
import os
import threading

import pytest

from service.runtime.progress import GrowingInterval, is_terminal, stage_progress
from tests.support.clocks import ManualClock


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr("service.runtime.progress.time.monotonic", clock)
    return clock


def test_interval_grows_up_to_the_longest(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("service.runtime.progress.time.monotonic", lambda: now)
    interval = GrowingInterval(10, 60)
    due = []
    for _ in range(300):
        now += 1
        if interval.due():
            due.append(now - 1000)
    assert due == [10, 30, 70, 130, 190, 250]


def test_restart_counts_from_now(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("service.runtime.progress.time.monotonic", lambda: now)
    interval = GrowingInterval(10, 60)
    now = 1009.0
    interval.restart()
    now = 1018.0
    assert not interval.due()
    now = 1019.0
    assert interval.due()


def test_short_work_leaves_no_trace_in_a_file(clock):
    stream = io.StringIO()
    with stage_progress(stream=stream) as show:
        for done in range(101):
            clock.now += 0.05
            show("reading images", done, 100)
    assert stream.getvalue() == ""


def test_long_work_has_lines_at_growing_intervals_in_a_file(clock):
    stream = io.StringIO()
    times = []
    with stage_progress(stream=stream) as show:
        for done in range(1001):
            before = stream.tell()
            show("reading images", done, 1000)
            if stream.tell() > before:
                times.append(clock.now - 1000)
            clock.now += 1
    assert times == [10, 30, 70, 150, 310, 630, 1000]
    first, *_, last = stream.getvalue().splitlines()
    assert first == "reading images: 10 of 1,000 (1%), 1.0/s, ETA 16:30"
    assert last == "reading images: 1,000 in 16:40"
    assert stream.getvalue().replace("\n", "").isprintable()


def test_bytes_of_an_unknown_total_and_a_note(clock):
    stream = io.StringIO()
    with stage_progress("bytes", stream) as show:
        show("downloading", 0, None)
        clock.now += 10
        show("downloading", 25_000_000, None, "try 2")
    assert stream.getvalue() == "downloading: 25.0 MB, 2.5 MB/s, try 2\n"


def test_a_stage_can_be_repeated(clock):
    stream = io.StringIO()
    with stage_progress(stream=stream) as show:
        for _ in range(2):
            for done in range(0, 61, 20):
                show("computing features", done, 60)
                clock.now += 20
    lines = stream.getvalue().splitlines()
    assert lines.count("computing features: 60 in 1:00") == 2
    assert "computing features: 20 of 60 (33%), 1.0/s, ETA 0:40" in lines


def test_names_cannot_write_control_characters(clock):
    stream = io.StringIO()
    with stage_progress(stream=stream) as show:
        show("reading a\x1b[2J\nb", 0, 10)
        clock.now += 10
        show("reading a\x1b[2J\nb", 1, 10)
    assert stream.getvalue().startswith("reading a?[2J?b: 1 of 10")


def test_a_terminal_has_bars_that_disappear(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = os.openpty()
    drawn = bytearray()

    def read() -> None:
        # Linux reports the end of a terminal as an error.
        try:
            while part := os.read(reader, 4096):
                drawn.extend(part)
        except OSError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w") as terminal:
        assert is_terminal(terminal)
        with stage_progress(stream=terminal) as show:
            for done in range(3):
                show("verifying models", done, 2, "[not markup]")
    thread.join()
    os.close(reader)
    text = drawn.decode()
    assert "verifying models" in text
    assert "2 of 2 (100%)" in text
    assert "[not markup]" in text
    # The line is erased at the end.
    assert text.rstrip("\r\n").endswith("\x1b[2K")


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        assert not is_terminal(terminal)
    os.close(reader)
