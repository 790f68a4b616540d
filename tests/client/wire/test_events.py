"""Parsing of Server-Sent Events."""

from ganymede_client.wire.events import EventParser, ServerSentEvent, parse_events


def test_events_have_their_fields():
    lines = [
        ": comment",
        "retry: 1500",
        "",
        "event: a",
        "data: 1",
        "data:2",
        "id: x",
        "",
        "data",
        "",
    ]
    assert list(parse_events(lines)) == [
        ServerSentEvent("a", "1\n2", "x"),
        ServerSentEvent("message", "", None),
    ]


def test_event_that_is_not_complete_is_left_out():
    assert list(parse_events(["event: a", "data: 1"])) == []


def test_time_until_the_next_connection_is_kept():
    parser = EventParser()
    assert parser.retry_s is None
    for line in ("retry: 250", "retry: soon", "unknown: 1", ""):
        assert parser.feed(line) is None
    assert parser.retry_s == 0.25
