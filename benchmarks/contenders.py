"""What is compared: Ganymede, and each of the peers with the settings that suited it best.

Every contender is a process that is started with a model and a port, takes requests of its own
form, and has to give the very pictures that the others give.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
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
# How often a server is looked at, and what of a CPU one that does nothing may use: Ray's some.
_LOOK_S = 0.2
_IDLE_SHARE = 0.25


def _lanes(batch: str | None = None, wait_s: str | None = None) -> dict[str, str]:
    """Return settings of as many processes as there are CPUs, of one thread each."""
    return _settings("cpus", "1", batch, wait_s)


def _settings(
    workers: str, threads: str, batch: str | None = None, wait_s: str | None = None
) -> dict[str, str]:
    given = {"WORKERS": workers, "THREADS": threads, "BATCH": batch, "WAIT_S": wait_s}
    return {f"PEER_{name}": value for name, value in given.items() if value is not None}


# What was tried for each, the best first.
_SETTINGS = {
    "fastapi": [_lanes(), _settings("1", "1"), _settings("1", "cpus")],
    "litserve": [
        _lanes("8", "0.001"),
        _lanes("16", "0.005"),
        _settings("1", "cpus", "16", "0.001"),
    ],
    "triton": [_lanes("16"), _settings("1", "cpus", "16")],
    "ray": [_lanes("8"), _settings("1", "cpus", "16")],
    "bentoml": [_lanes("64"), _settings("1", "cpus", "64")],
}


@dataclass(frozen=True)
class Workload:
    """What one request asks for: `n` pictures of `model` as ``png``, ``npy`` or ``zip``."""

    model: str
    n: int
    form: str

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.model}-{self.n}-{self.form}"


@dataclass(frozen=True)
class Contender:
    """A server, with the settings that it is started with."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    label: str = "ganymede"

    def command(self, model: Path, port: int) -> list[str]:
        """Return what starts it, in the folder of the peers."""
        if self.name == "ganymede":
            program = Path(sys.executable).with_name("ganymede")
            models = model.parents[1].absolute()
            flags = ["--models", str(models), "--port", str(port), "--provider", "cpu"]
            return [str(program), "serve", *flags, "--no-log-requests", "--deadline-s", "120"]
        python = ENVIRONMENTS / self.name / "bin" / "python"
        if self.name == "bentoml":
            flags = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PEERS)]
            return [str(python), "-m", "bentoml", "serve", "bentoml_server:ImageGenerator", *flags]
        return [str(python), str(PEERS / f"{self.name}_server.py")]

    @property
    def is_installed(self) -> bool:
        """Whether `make bench-peers` has been there."""
        return self.name == "ganymede" or (ENVIRONMENTS / self.name / "bin" / "python").exists()

    def request(self, work: Workload) -> tuple[str, str]:
        """Return the path, and the body as `load` takes it."""
        one = {"n": work.n, "format": work.form}
        match self.name:
            case "ganymede":
                wish = {"model": work.model, **one}
                return "/v1/generate", json.dumps(wish)[:-1] + ', "seed": @SEED@}'
            case "triton":
                kind = "npy" if work.form == "npy" else "png"
                output = {"name": "pixels" if kind == "npy" else "file"}
                wish = {"name": "seed", "shape": [work.n, 1], "datatype": "INT64", "data": "@"}
                outputs = [output | {"parameters": {"binary_data": True}}]
                body = json.dumps({"inputs": [wish], "outputs": outputs})
                return f"/v2/models/{kind}/infer", body.replace('"@"', f"[@SEEDS:{work.n}@]")
            case "bentoml":
                path = "/npy" if work.form == "npy" else "/png"
                return path, f'{{"seeds": [@SEEDS:{work.n}@]}}'
            case _:
                return "/generate", json.dumps(one)[:-1] + ', "seed": @SEED@}'

    def pictures(self, answer: bytes, headers: dict[str, str], work: Workload) -> np.ndarray:
        """Return the pictures ``[N, H, W, C]`` of an answer."""
        if self.name == "bentoml":
            files = [base64.b64decode(text) for text in json.loads(answer)]
            if work.form == "npy":
                side = round((len(files[0]) / 3) ** 0.5)
                return np.stack([np.frombuffer(f, np.uint8).reshape(side, side, 3) for f in files])
        elif self.name == "triton":
            head = int(headers["inference-header-content-length"])
            shape = json.loads(answer[:head])["outputs"][0]["shape"]
            rest = answer[head:]
            if work.form == "npy":
                return np.frombuffer(rest, np.uint8).reshape(shape)
            files = []
            while rest:
                size = int.from_bytes(rest[:4], "little")
                files.append(rest[4 : 4 + size])
                rest = rest[4 + size :]
        elif work.form == "npy":
            return np.load(io.BytesIO(answer))
        elif work.form == "zip":
            with zipfile.ZipFile(io.BytesIO(answer)) as archive:
                files = [archive.read(name) for name in archive.namelist()]
        else:
            files = [answer]
        return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def contenders(
    only: Sequence[str] = (), *, tune: bool = False, before: Sequence[Path] = ()
) -> list[Contender]:
    """Return Ganymede and its peers, or `only` those of these names, each using all CPUs.

    The first settings of each peer are those that were best; with `tune` come the others that were
    tried, with their settings in the name. `before` are other checkouts of Ganymede, to see what a
    change was worth.
    """
    cpus = str(usable_cpus())
    found = [Contender("ganymede", {"PYTHONPATH": str(HERE.parent)})]
    found += [
        Contender("ganymede", {"PYTHONPATH": str(each.absolute())}, f"before: {each.name}")
        for each in before
    ]
    for name, tried in _SETTINGS.items():
        for i, each in enumerate(tried):
            settings = {key: value.replace("cpus", cpus) for key, value in each.items()}
            label = f"{name} {'×'.join(settings.values())}" if tune else name
            if tune or i == 0:
                found.append(Contender(name, settings, label))
    return [each for each in found if not only or each.name in only]


@dataclass(frozen=True)
class Server:
    """A contender that is up."""

    contender: Contender
    address: str
    pid: int

    def cpu_seconds(self) -> float:
        """Return what it has used of all CPUs so far, with all the processes that it has started.

        A picture's share of that says more than pictures a second where others use the machine.
        """
        first = psutil.Process(self.pid)
        total = 0.0
        for each in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    def settle(self, most_seconds: float = 20.0) -> None:
        """Wait until it does nothing: many go on with what nobody waits for any more, and would
        take the machine from the one that is measured next.
        """
        until, before = time.monotonic() + most_seconds, math.inf
        while time.monotonic() < until:
            now = self.cpu_seconds()
            if 0 <= now - before < _IDLE_SHARE * _LOOK_S:
                return
            before = now
            time.sleep(_LOOK_S)


@contextlib.contextmanager
def started(contender: Contender, model: Path, work: Workload) -> Iterator[Server]:
    """Start a contender, wait for its first answer, and stop it at the end.

    Raises SystemExit with the end of its log where it does not come up.
    """
    port = _free_port()
    environment = {
        **os.environ,
        "PEER_MODEL": str(model.absolute()),
        "PEER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **contender.settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        # A plan is measured anew, on the machine as it is now.
        environment |= {
            "GANYMEDE_CACHE": folder,
            "BENTOML_HOME": folder,
            "BENTOML_DO_NOT_TRACK": "1",
        }
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                contender.command(model, port),
                cwd=PEERS,
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            if not _answers(contender, address, work, process):
                tail = log.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{contender.name} does not answer:\n{tail}")
            yield Server(contender, address, process.pid)
        finally:
            _stop(process)


def ask(contender: Contender, address: str, work: Workload, seed: int) -> np.ndarray:
    """Return the pictures of one request. Raises OSError."""
    path, body = contender.request(work)
    seeds = ",".join(map(str, range(seed, seed + work.n)))
    body = body.replace(f"@SEEDS:{work.n}@", seeds).replace("@SEED@", str(seed))
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address + path, body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = {name.lower(): value for name, value in answer.headers.items()}
        return contender.pictures(answer.read(), said, work)


def plan_of(contender: Contender, address: str) -> str | None:
    """Return the plan by which Ganymede runs the model; None of a peer."""
    if contender.name != "ganymede":
        return None
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as answer:
        return json.dumps(json.load(answer)["data"][0]["plan"])


def _answers(
    contender: Contender, address: str, work: Workload, process: subprocess.Popen[bytes]
) -> bool:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            ask(contender, address, work, 0)
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    # What it has started and left behind is in its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
