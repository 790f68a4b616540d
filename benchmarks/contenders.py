"""Servers to compare: Ganymede and its peers, each with its best settings.

Every server is a process that is started with a model and a port. Requests have the format of the
server, and all servers must return exactly the same images.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from service.runtime.onnx.machine import usable_cpus

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ENVIRONMENTS = HERE / ".peers"
_START_S = 90.0
# Polling interval, and the share of a CPU that an idle server may use (Ray always uses some).
_POLL_S = 0.2
_IDLE_SHARE = 0.25


def _process_per_cpu(batch: str | None = None, wait_s: str | None = None) -> dict[str, str]:
    """Return settings for one single-threaded process per CPU."""
    return _settings("cpus", "1", batch, wait_s)


def _settings(
    workers: str, threads: str, batch: str | None = None, wait_s: str | None = None
) -> dict[str, str]:
    values = {"WORKERS": workers, "THREADS": threads, "BATCH": batch, "WAIT_S": wait_s}
    return {f"PEER_{name}": value for name, value in values.items() if value is not None}


# The settings that were tried for each server, the best first.
_SETTINGS = {
    "fastapi": [_process_per_cpu(), _settings("1", "1"), _settings("1", "cpus")],
    "litserve": [
        _process_per_cpu("8", "0.001"),
        _process_per_cpu("16", "0.005"),
        _settings("1", "cpus", "16", "0.001"),
    ],
    "triton": [_process_per_cpu("16"), _settings("1", "cpus", "16")],
    "ray": [_process_per_cpu("8"), _settings("1", "cpus", "16")],
    "bentoml": [_process_per_cpu("64"), _settings("1", "cpus", "64")],
}


@dataclass(frozen=True)
class Workload:
    """One request: `n` images of `model` as ``png``, ``npy`` or ``zip``."""

    model: str
    n: int
    format: str

    @property
    def name(self) -> str:
        """The name in results."""
        return f"{self.model}-{self.n}-{self.format}"


@dataclass(frozen=True)
class Contender:
    """A server and the settings to start it with."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    label: str = "ganymede"
    # Only Ganymede has an access log by default; the other servers are compared without one.
    log_requests: bool = False
    # Further flags of `ganymede serve`.
    flags: tuple[str, ...] = ()
    # Another checkout of Ganymede, which is run with its own environment if it has one.
    checkout: Path | None = None

    def command(self, model: Path, port: int) -> list[str]:
        """Return the command that starts the server in the folder of the peers."""
        if self.name == "ganymede":
            program = Path(sys.executable).with_name("ganymede")
            if self.checkout and (own := self.checkout / ".venv" / "bin" / "ganymede").exists():
                program = own
            models = model.parents[1].absolute()
            flags = ["--models", str(models), "--port", str(port), "--provider", "cpu"]
            flags += ["--log-requests" if self.log_requests else "--no-log-requests"]
            return [str(program), "serve", *flags, "--deadline-s", "120", *self.flags]
        python = ENVIRONMENTS / self.name / "bin" / "python"
        if self.name == "bentoml":
            flags = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PEERS)]
            return [str(python), "-m", "bentoml", "serve", "bentoml_server:ImageGenerator", *flags]
        return [str(python), str(PEERS / f"{self.name}_server.py")]

    @property
    def is_installed(self) -> bool:
        """Whether `make bench-peers` installed it."""
        return self.name == "ganymede" or (ENVIRONMENTS / self.name / "bin" / "python").exists()

    def request(self, work: Workload) -> tuple[str, str]:
        """Return the path, and the body template for `load`."""
        options = {"n": work.n, "format": work.format}
        match self.name:
            case "ganymede":
                body = json.dumps({"model": work.model, **options})
                return "/v1/generate", body[:-1] + ', "seed": @SEED@}'
            case "triton":
                kind = "npy" if work.format == "npy" else "png"
                output = {"name": "pixels" if kind == "npy" else "file"}
                seeds = {"name": "seed", "shape": [work.n, 1], "datatype": "INT64", "data": "@"}
                outputs = [output | {"parameters": {"binary_data": True}}]
                body = json.dumps({"inputs": [seeds], "outputs": outputs})
                return f"/v2/models/{kind}/infer", body.replace('"@"', f"[@SEEDS:{work.n}@]")
            case "bentoml":
                path = "/npy" if work.format == "npy" else "/png"
                return path, f'{{"seeds": [@SEEDS:{work.n}@]}}'
            case _:
                return "/generate", json.dumps(options)[:-1] + ', "seed": @SEED@}'

    def images(self, response: bytes, headers: dict[str, str], work: Workload) -> np.ndarray:
        """Return the images ``[N, H, W, C] uint8`` of a response."""
        if self.name == "bentoml":
            files = [base64.b64decode(text) for text in json.loads(response)]
            if work.format == "npy":
                side = round((len(files[0]) / 3) ** 0.5)
                return np.stack([np.frombuffer(f, np.uint8).reshape(side, side, 3) for f in files])
        elif self.name == "triton":
            head = int(headers["inference-header-content-length"])
            shape = json.loads(response[:head])["outputs"][0]["shape"]
            remaining = response[head:]
            if work.format == "npy":
                return np.frombuffer(remaining, np.uint8).reshape(shape)
            files = []
            while remaining:
                size = int.from_bytes(remaining[:4], "little")
                files.append(remaining[4 : 4 + size])
                remaining = remaining[4 + size :]
        elif work.format == "npy":
            return np.load(io.BytesIO(response))
        elif work.format == "zip":
            with zipfile.ZipFile(io.BytesIO(response)) as archive:
                files = [archive.read(name) for name in archive.namelist()]
        else:
            files = [response]
        return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def contenders(
    only: Sequence[str] = (),
    *,
    processes: Sequence[str] = (),
    tune: bool = False,
    before: Sequence[Path] = (),
) -> list[Contender]:
    """Return Ganymede and its peers, each using all CPUs. `only` selects servers by name.

    With `processes` (such as ``1``, ``2`` or ``auto``), Ganymede is returned once for each value,
    instead of once with its default.

    Each peer has its best settings. With `tune`, it is also returned with each of the other
    settings that were tried; its label names them. `before` are other checkouts of Ganymede, to
    measure the effect of a change.
    """
    cpus = str(usable_cpus())
    here = {"PYTHONPATH": str(HERE.parent)}
    servers = [with_processes(each) for each in processes] or [Contender("ganymede", here)]
    servers += [
        Contender("ganymede", {"PYTHONPATH": str(path)}, f"before: {path.name}", checkout=path)
        for path in (each.absolute() for each in before)
    ]
    for name, tried in _SETTINGS.items():
        for i, each in enumerate(tried):
            settings = {key: value.replace("cpus", cpus) for key, value in each.items()}
            label = f"{name} {'×'.join(settings.values())}" if tune else name
            if tune or i == 0:
                servers.append(Contender(name, settings, label))
    return [each for each in servers if not only or each.name in only]


def with_processes(processes: str, *more: str) -> Contender:
    """Return Ganymede with a number of processes, or ``auto``, and with `more` flags."""
    flags = ("--processes", processes, *more)
    settings = {"PYTHONPATH": str(HERE.parent)}
    return Contender("ganymede", settings, f"ganymede ×{processes}", flags=flags)


@dataclass(frozen=True)
class Memory:
    """The memory of a server's processes, in MiB.

    RSS counts a page that several processes share once for each of them; PSS divides it among
    them, so that the sum over all processes is the memory that the server takes.
    """

    processes: int
    pss_mib: float
    rss_mib: float


@dataclass(frozen=True)
class Server:
    """A running server."""

    contender: Contender
    address: str
    pid: int

    def memory(self) -> Memory:
        """Return the memory of all processes of the server."""
        infos = []
        for each in self._processes():
            with contextlib.suppress(psutil.Error):
                infos.append(each.memory_full_info())
        pss, rss = (sum(getattr(info, kind) for info in infos) for kind in ("pss", "rss"))
        return Memory(len(infos), pss / 2**20, rss / 2**20)

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, including all child processes.

        CPU time per image is more reliable than images per second on a shared machine.
        """
        total = 0.0
        for each in self._processes():
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def wait_until_idle(self, timeout_s: float = 20.0) -> None:
        """Wait until the server is idle.

        Many servers continue to process abandoned requests, which would slow down the next
        measurement.
        """
        end, before = time.monotonic() + timeout_s, math.inf
        while time.monotonic() < end:
            now = self.cpu_seconds()
            if 0 <= now - before < _IDLE_SHARE * _POLL_S:
                return
            before = now
            time.sleep(_POLL_S)


@contextlib.contextmanager
def started(
    contender: Contender, model: Path, work: Workload, cpus: Collection[int] = ()
) -> Iterator[Server]:
    """Start a server, wait for its first response, and stop it at the end.

    Ganymede serves a copy of `model` alone. With `cpus` the server may only use these CPUs.
    Raises SystemExit with the end of its log if it does not start.
    """
    port = free_port()
    confined = ["taskset", "--cpu-list", ",".join(map(str, cpus))] if cpus else []
    environment = {
        **os.environ,
        "PEER_MODEL": str(model.absolute()),
        "PEER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **contender.settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        # The cache is empty, so that the execution plan is measured now.
        environment |= {
            "GANYMEDE_CACHE": folder,
            "BENTOML_HOME": folder,
            "BENTOML_DO_NOT_TRACK": "1",
        }
        log = Path(folder) / "log"
        if contender.name == "ganymede":
            alone = Path(folder) / "models" / model.parent.name / model.name
            model = Path(shutil.copytree(model, alone))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*confined, *contender.command(model, port)],
                cwd=PEERS,
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            if not _responds(contender, address, work, process):
                tail = log.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{contender.name} does not respond:\n{tail}")
            yield Server(contender, address, process.pid)
        finally:
            _stop(process)


def request_images(contender: Contender, address: str, work: Workload, seed: int) -> np.ndarray:
    """Send one request and return its images. Raises OSError."""
    path, body = contender.request(work)
    seeds = ",".join(map(str, range(seed, seed + work.n)))
    body = body.replace(f"@SEEDS:{work.n}@", seeds).replace("@SEED@", str(seed))
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address + path, body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return contender.images(response.read(), headers, work)


def plan_of(contender: Contender, address: str) -> str | None:
    """Return the execution plan of Ganymede; None for a peer."""
    if contender.name != "ganymede":
        return None
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as response:
        return json.dumps(json.load(response)["data"][0]["plan"])


def _responds(
    contender: Contender, address: str, work: Workload, process: subprocess.Popen[bytes]
) -> bool:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            request_images(contender, address, work, 0)
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    # Remaining child processes are in its process group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Return a port on which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
