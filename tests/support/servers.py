"""Real servers for tests, each on its own port and stopped at the end of its block."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

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

    def connect(self, *, receive_buffer: int | None = None, timeout: float = 60) -> socket.socket:
        """Open a TCP connection, with a receive buffer of the given size in bytes."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.socket()
        connection.settimeout(timeout)
        if receive_buffer is not None:
            # Before it is connected: the kernel resizes the buffer otherwise.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((host, int(port)))
        return connection


def ganymede(*arguments: str | Path) -> list[str]:
    """The installed command of the environment that runs the tests, with arguments."""
    return [str(Path(sys.executable).parent / "ganymede"), *map(str, arguments)]


@contextlib.contextmanager
def serving(
    models: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
    until: str = "ready",
    command: Sequence[str] | None = None,
) -> Iterator[Server]:
    """Serve `models` with `ganymede serve`, or with `command`, to which the port is appended.

    Waits until the service is `ready`, or only `live` if it will not become ready.
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
        _wait_for_start(server, "/readyz" if until == "ready" else "/livez")
        yield server
    finally:
        stop(process)


@contextlib.contextmanager
def serving_on_terminal(models: Path) -> Iterator[tuple[Server, Callable[[], str]]]:
    """Serve `models` as a user does who watches; yields the server and what the screen shows."""
    port = free_port()
    reader, writer = os.openpty()
    written = bytearray()

    def read() -> None:
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while part := os.read(reader, 65_536):
                written.extend(part)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    command = ganymede("serve", "--models", models, "--port", str(port))
    process = subprocess.Popen(command, stdout=writer, stderr=writer, start_new_session=True)
    os.close(writer)
    log = Path(tempfile.mkdtemp(prefix="ganymede-test-")) / "serve.log"
    log.touch()
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_for_start(server, "/readyz")
        yield server, lambda: written.decode(errors="replace")
    finally:
        stop(process)
        thread.join(10)
        os.close(reader)


def stop(process: subprocess.Popen) -> int:
    """Stop the server with SIGTERM; kill its process group if it does not end within 30 s."""
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


def external_address() -> str | None:
    """An IPv4 address of this machine other than loopback; None if it has none."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return None


def worker_of(server: Server) -> psutil.Process:
    """The worker process below the supervisor."""
    (worker,) = workers_of(server)
    return worker


def workers_of(server: Server) -> list[psutil.Process]:
    """The worker processes below the supervisor."""
    return psutil.Process(server.process.pid).children()


@contextlib.contextmanager
def client_of_each_worker(server: Server, **options) -> Iterator[list[httpx.Client]]:
    """Clients that are each connected to another worker, for as long as the worker lives."""
    workers = workers_of(server)
    deadline = time.monotonic() + START_SECONDS
    clients: dict[int, httpx.Client] = {}
    with contextlib.ExitStack() as stack:
        # All clients stay open: the next connection goes to the worker with the fewest.
        while len(clients) < len(workers):
            assert time.monotonic() < deadline, server.logged()
            client = stack.enter_context(server.client(**options))
            clients[_worker_that_serves(client, workers)] = client
        yield [clients[worker.pid] for worker in workers]


def _worker_that_serves(client: httpx.Client, workers: Sequence[psutil.Process]) -> int:
    """The id of the process at the other end of the client's connection."""
    connection = client.get("/livez").extensions["network_stream"]
    address = connection.get_extra_info("client_addr")
    for worker in workers:
        if any(tuple(each.raddr) == tuple(address) for each in worker.net_connections()):
            return worker.pid
    raise AssertionError(f"no worker is connected to {address}")


def resident_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until `condition` is true; fails after a generous time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_ready(server: Server, seconds: float = 60) -> None:
    """Wait until a server that restarts its worker is ready again."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + "/readyz", timeout=seconds).status_code == 200:
                return
        assert time.monotonic() < deadline, server.logged()
        time.sleep(0.05)


def _wait_for_start(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at its start:\n{server.logged()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + path, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"no response to {path} within {START_SECONDS} s:\n{server.logged()}")


@contextlib.contextmanager
def occupied_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which a program listens that closes every connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def close_connections() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=close_connections, daemon=True).start()
        yield listener.getsockname()[1]
        # Ends the thread's wait.
        listener.shutdown(socket.SHUT_RDWR)
