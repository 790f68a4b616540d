"""Log lines of the real service, and the request ids in them."""

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import pytest

from service import logs
from tests.support.drawn_models import write_failing
from tests.support.servers import serving, serving_on_terminal, wait_until

GENERATED_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("failing")
    write_failing(models / "failing" / "1")
    with serving(models) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def lines(server) -> list[dict]:
    return [json.loads(line) for line in server.logged().splitlines() if line.startswith("{")]


def log_lines_of(server, request_id: str) -> list[dict]:
    """Wait for the last log line of a request, and return all of them."""
    deadline = time.monotonic() + 30
    while True:
        matching = [line for line in lines(server) if line.get("request_id") == request_id]
        if any(line["logger"] == "ganymede.access" for line in matching):
            return matching
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_all_lines_are_json_and_appear_once(server, client):
    client.get("/v1/models")
    written = server.logged().splitlines()
    # ONNX Runtime writes its warnings in its own format.
    ours = [line for line in written if "onnxruntime:" not in line]
    messages = [json.loads(line)["message"] for line in ours]
    assert sum("Starting production HTTP BentoServer" in message for message in messages) == 1
    assert sum("Service ganymede initialized" in message for message in messages) == 1
    assert sum("failing@1 is ready" in message for message in messages) == 1
    (ready,) = [json.loads(line) for line in ours if '"serving"' in line]
    assert ready["url"] == f"{server.url}/"
    assert (ready["models"], ready["failed"], ready["processes"]) == (1, 0, 1)
    for line in ours:
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_access_line_fields(server, client):
    response = client.post(
        "/v1/generate", json={"model": "failing", "seed": 0}, headers={"x-request-id": "abc-123"}
    )
    assert response.headers["x-request-id"] == "abc-123"
    (line,) = log_lines_of(server, "abc-123")
    assert line["logger"] == "ganymede.access"
    assert line["level"] == "INFO"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/generate", 200)
    assert line["model"] == "failing"
    assert line["bytes"] == len(response.content)
    assert line["ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_route_is_a_template(server, client):
    client.get("/v1/models/failing/images/0.png", headers={"x-request-id": "template"})
    (line,) = log_lines_of(server, "template")
    assert line["route"] == "/v1/models/{name}/images/{seed}.{extension}"


def test_unmatched_route(server, client):
    client.get("/nowhere", headers={"x-request-id": "nowhere"})
    (line,) = log_lines_of(server, "nowhere")
    assert (line["route"], line["status"]) == ("unmatched", 404)
    assert "model" not in line


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"two words",
        b'quo"ted',
        b"back\\slash",
        b"\xff\xfe",
        b"caf\xe9",
        b"a" * 129,
        b"-leading",
        b"<script>",
        b"tab\there",
    ],
)
def test_replaces_invalid_request_id(client, value):
    response = client.get("/v1/models", headers={"x-request-id": value})
    assert response.status_code == 200
    assert GENERATED_ID.fullmatch(response.headers["x-request-id"])


@pytest.mark.parametrize("value", ["a", "a" * 128, "0b7e-4c:x/y+z=@.", "Root=1-67891233-abc"])
def test_keeps_valid_request_id(client, value):
    assert (
        client.get("/v1/models", headers={"x-request-id": value}).headers["x-request-id"] == value
    )


def test_new_request_ids_are_unique(client):
    request_ids = {client.get("/v1/models").headers["x-request-id"] for _ in range(20)}
    assert len(request_ids) == 20
    assert all(GENERATED_ID.fullmatch(each) for each in request_ids)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/v1/models", None, 405),
        ("POST", "/v1/generate", {"model": "failing", "n": 0}, 422),
        ("POST", "/v1/generate", {"model": "unknown"}, 404),
        ("POST", "/v1/generate", {"model": "failing", "seed": 2}, 500),
    ],
)
def test_problems_have_the_request_id(client, method, path, body, status):
    response = client.request(
        method, path, json=body, headers={"x-request-id": f"problem-{status}"}
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == f"problem-{status}"
    assert response.json()["request_id"] == f"problem-{status}"


def test_unexpected_error_is_logged_once_with_request_id(server, client):
    body = {"model": "failing", "seed": 2}
    response = client.post("/v1/generate", json=body, headers={"x-request-id": "unforeseen"})
    assert response.status_code == 500
    assert "onnxruntime" not in response.text.lower()
    error, access = log_lines_of(server, "unforeseen")
    assert error["level"] == "ERROR"
    assert "Traceback" in error["exception"]
    assert access["status"] == 500
    assert access["bytes"] == len(response.content)
    # uvicorn would log the same exception again.
    assert not any("Exception in ASGI" in line["message"] for line in lines(server))


@pytest.mark.slow
def test_text_format_and_disabled_access_log(tmp_path):
    write_failing(tmp_path / "failing" / "1")
    environment = {"GANYMEDE_LOG_FORMAT": "text"}
    with serving(tmp_path, env=environment) as server, server.client() as client:
        client.get("/v1/models", headers={"x-request-id": "words"})
        # The line of the first request is written before the second response.
        client.get("/v1/models")
        assert re.search(
            r"^\S+Z INFO ganymede\.access: answered request_id=words method=GET route=/v1/models "
            r"status=200 ms=\d+\.\d bytes=\d+$",
            server.logged(),
            re.MULTILINE,
        )
    environment = {"GANYMEDE_LOG_REQUESTS": "false"}
    with serving(tmp_path, env=environment) as server, server.client() as client:
        response = client.get("/v1/models", headers={"x-request-id": "silent"})
        assert response.headers["x-request-id"] == "silent"
        client.get("/v1/models")
        assert "ganymede.access" not in server.logged()


def test_rejects_unknown_format(tmp_path):
    from tests.support.command import run

    (tmp_path / "models").mkdir()
    environment = {**os.environ, "GANYMEDE_LOG_FORMAT": "xml"}
    process = run("serve", "--models", tmp_path / "models", env=environment)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "log_format" in process.stderr


@pytest.fixture
def restored():
    """Restore the loggers after the test."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, level = before
    root.setLevel(level)
    logging.captureWarnings(False)


# The start of a colored line of the level INFO.
LINE = "\x1b\\[2m\\d\\d:\\d\\d:\\d\\d\x1b\\[0m  \x1b\\[32mINFO    \x1b\\[0m "


def test_default_format_depends_on_terminal(restored, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        logs.configure("auto", terminal)
        assert logs.on_terminal()
        logging.getLogger("ganymede").info("to a person")
        assert re.fullmatch(LINE + "to a person\r\n", os.read(reader, 1000).decode())
    os.close(reader)
    stream = io.StringIO()
    logs.configure("auto", stream)
    assert not logs.on_terminal()
    logging.getLogger("ganymede").info("to a machine")
    assert json.loads(stream.getvalue())["message"] == "to a machine"


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": message, **extra})


PLAIN = logs.TerminalFormatter(colored=False)


def test_values_cannot_forge_lines():
    forged = "GET /a\n2026-01-01T00:00:00.000Z INFO x: forged\x1b[2J\u2028\x85"
    for formatter in (logs.TextFormatter(), logs.JsonFormatter(), PLAIN):
        line = formatter.format(record(forged))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_stack_trace_cannot_control_the_terminal():
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        line = PLAIN.format(record("failed", exc_info=sys.exc_info()))
    assert "ValueError: \\x1b[2J" in line.splitlines()[-1]
    assert "\x1b" not in line


def request_line(**fields: object) -> str:
    common = {"request_id": "abc", "method": "GET", "route": "/v1/models", "bytes": 1500}
    return PLAIN.line(0, "INFO", "ganymede.access", "answered", {**common, **fields})[10:]


def test_requests_are_aligned_on_a_terminal():
    ready = request_line(status=200, ms=0.5)
    failed = request_line(status=422, ms=1234.5, model="cut", key="app", reason="too-large")
    assert ready == "200           0.5 ms    1.5 kB  GET    /v1/models"
    assert failed == (
        "422        1234.5 ms    1.5 kB  GET    /v1/models  cut  app  too-large  request abc"
    )


def test_lines_of_libraries_name_their_origin_on_a_terminal():
    assert PLAIN.line(0, "WARNING", "uvicorn.error", "x\n", {"n": 1})[10:] == (
        "WARNING  uvicorn.error: x  n=1"
    )
    assert PLAIN.line(0, "ERROR", "ganymede.jobs", "x", {})[10:] == "ERROR    x"


def test_an_event_has_fields_for_programs_and_text_for_people():
    extra = {"fields": {"url": "http://a/"}, "terminal": "ready\nat a\x1b"}
    event = record("serving", **extra)
    assert json.loads(logs.JsonFormatter().format(event))["url"] == "http://a/"
    assert logs.TextFormatter().format(event).endswith("x: serving url=http://a/")
    assert PLAIN.format(event) == "ready\nat a\\x1b"


def test_no_color_is_respected(restored, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        logs.configure("text", terminal)
        logging.getLogger("ganymede").info("plain")
        assert "\x1b" not in os.read(reader, 1000).decode()
    os.close(reader)


def test_logs_values_that_are_not_json():
    line = logs.JsonFormatter().format(record("x", fields={"path": sys.stdout, "n": 1}))
    assert json.loads(line)["n"] == 1


def test_lines_of_an_iteration_are_written_together_and_in_order(restored):
    class Counting(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            return super().write(text)

    stream = Counting()
    logs.configure("json", stream)
    logger = logging.getLogger("ganymede.access")

    async def main():
        for number in range(3):
            logs.info_soon(logger, "soon", {"number": number})
        assert stream.writes == 0
        await asyncio.sleep(0)
        assert stream.writes == 1
        logs.info_soon(logger, "soon", {"number": 3})
        logger.warning("at once")
        await asyncio.sleep(0)

    asyncio.run(main())
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("number") for line in written] == [0, 1, 2, 3, None]
    assert [line["level"] for line in written] == ["INFO"] * 4 + ["WARNING"]


@pytest.fixture
def full_disk():
    # Closing it writes what is still buffered.
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as stream:
        yield stream


def test_full_disk_does_not_reach_the_caller(restored, full_disk, capsys):
    async def main():
        loop_errors = []
        asyncio.get_running_loop().set_exception_handler(lambda _, error: loop_errors.append(error))
        logger = logging.getLogger("ganymede.access")
        for _ in range(2):
            logger.info("at once")
            logs.info_soon(logger, "soon", {})
            await asyncio.sleep(0)
        logs.info_soon(logger, "soon", {})
        logger.info("after waiting lines")
        assert not loop_errors

    logs.configure("json", full_disk)
    asyncio.run(main())
    assert "No space left on device" in capsys.readouterr().err


def test_waiting_lines_are_written_at_exit(restored):
    stream = io.StringIO()
    logs.configure("text", stream)

    async def main():
        logs.info_soon(logging.getLogger("ganymede.access"), "last", {"n": 1})

    asyncio.run(main())
    logging.shutdown()
    assert stream.getvalue().endswith("ganymede.access: last n=1\n")


def test_a_terminal_shows_where_the_playground_is_and_no_noise(tmp_path, monkeypatch):
    """The server writes to a terminal of its own, which the test reads."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    write_failing(tmp_path / "failing" / "1")
    with serving_on_terminal(tmp_path) as (server, screen), server.client() as client:
        wait_until(lambda: "is ready." in screen())
        client.get("/v1/models")
        client.get("/nowhere", headers={"x-request-id": "lost"})
        wait_until(lambda: "request lost" in screen())
        shown = re.sub("\x1b\\[[0-9;]*m", "", screen()).splitlines()
    port = server.url.rpartition(":")[2]
    assert f"  playground  http://127.0.0.1:{port}/" in shown
    assert "  models      1: failing" in shown
    assert "  processes   1" in shown
    assert sum("failing@1 is ready" in line for line in shown) == 1
    assert any(re.search(r"200 .* ms .* GET    /v1/models$", line) for line in shown)
    text = "\n".join(shown)
    assert "BentoServer" not in text
    assert "initialized" not in text
    assert "{" not in text
