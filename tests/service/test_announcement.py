"""What a server logs at its start, with a real engine."""

import logging

import pytest

from service.announcement import log_ready, log_start
from service.runtime.scheduling.engine import Engine
from service.settings import load_settings
from tests.support.drawn_models import write_cut


@pytest.fixture
def engine(tmp_path):
    write_cut(tmp_path / "cut" / "1")
    (tmp_path / "broken" / "1").mkdir(parents=True)
    engine = Engine(tmp_path, provider="cpu", queue_pixels=10**6)
    engine.start()
    yield engine
    engine.drain(1.0, "the test has ended")


def announced(caplog, engine, url="http://127.0.0.1:3000/", **flags):
    settings = load_settings({"models": engine.models, **flags})
    caplog.clear()
    with caplog.at_level(logging.INFO, "ganymede.server"):
        log_ready(url, engine, settings, 2)
    (record,) = caplog.records
    return record.fields, record.terminal.splitlines()


def test_ready_has_fields_for_programs_and_a_banner_for_people(caplog, engine):
    fields, lines = announced(caplog, engine)
    assert fields == {
        "url": "http://127.0.0.1:3000/",
        "models": 1,
        "failed": 1,
        "provider": "cpu",
        "processes": 2,
    }
    assert "  playground  http://127.0.0.1:3000/" in lines
    assert "  models      1: cut" in lines
    assert any(line.startswith("  failed      broken@1: ") for line in lines)
    assert "  provider    cpu" in lines


@pytest.mark.parametrize(
    ("url", "flags", "access"),
    [
        ("http://127.0.0.1:1/", {}, "programs on this machine, without a key"),
        ("http://localhost:1/", {"insecure": True}, "every machine that reaches this one"),
        ("http://localhost:1/", {}, "programs on this machine"),
        ("http://localhost:1/", {"keys": "k.json"}, "requests need a key of k.json"),
    ],
)
def test_states_who_has_access(caplog, engine, url, flags, access):
    _, lines = announced(caplog, engine, url, **flags)
    assert any(line.startswith(f"  access      {access}") for line in lines)


def test_start_names_the_folder(caplog, tmp_path):
    with caplog.at_level(logging.INFO, "ganymede.server"):
        log_start(load_settings({"models": tmp_path}))
    (record,) = caplog.records
    assert record.fields["folder"] == str(tmp_path)
    assert str(tmp_path) in record.terminal
