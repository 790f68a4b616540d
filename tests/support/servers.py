"""Real servers for tests, each on a port of its own, and each gone when its block ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 60


@dataclass
class Server:
    url: str
    process: subprocess.Popen
    log: Path

    def client(self, **options) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 60} | options)

    def logged(self) -> str:
        return self.log.read_text()


def ganymede(*arguments: str | Path) -> list[str]:
    """The command as a new user has it: the script of the environment that runs the tests."""
    return [str(Path(sys.executable).parent / "ganymede"), *map(str, arguments)]


@contextlib.contextmanager
def serving(
    models: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    until: str = "ready",
    command: Sequence[str] | None = None,
) -> Iterator[Server]:
    """Serve `models` with `ganymede serve`, or by `command` with the port appended.

    `until` says what to wait for: `ready`, or only `live`, for a service that will not be ready.
    """
    port = free_port()
    log = Path(tempfile.mkdtemp(prefix="ganymede-test-")) / "serve.log"
    command = command or ganymede("serve", "--models", models, *flags)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(server, "/readyz" if until == "ready" else "/livez")
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> int:
    """End the server as an operator does, and its whole process group if that is not enough."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at once:\n{server.logged()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + path, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not answer in {START_SECONDS} s:\n{server.logged()}")
