"""Check and measure Ganymede on a machine with a CUDA device, in at most 12 minutes.

    make gpu-check WHEELS=wheels                 install from a folder of wheels, without an index
    python -m benchmarks.gpu_check               install from the index
    python -m benchmarks.gpu_check --here        use the running Python as it is
    python -m benchmarks.gpu_check --dry-run     every stage on the CPU, in tiny sizes
    python -m benchmarks.gpu_check --download wheels    fetch the wheels, where there is an index

Stages: install, machine, tests (those with the mark `cuda`), graphs (export), bytes (the same
within a bucket), inference (ONNX Runtime's ways to run a graph and PyTorch's), serving (HTTP, with
several numbers of processes) and training (StyleGAN2). Each is a process of its own with a share of
the time; what it does not need is left to the later stages. A stage that fails or takes too long
is recorded, keeps the rows that it had measured, and does not stop the others. The result is a JSON
file and a table in Markdown, written after each stage. Exits with 1 if a stage failed or was
stopped.

This module needs only Python's standard library; `benchmarks.gpu_stages` contains the stages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages import ROOT, STAGES, write_json

# Weights of the stages; together they have the whole time.
SHARES: Mapping[str, float] = {
    "install": 150,
    "machine": 15,
    "tests": 60,
    "graphs": 80,
    "bytes": 40,
    "inference": 190,
    "serving": 90,
    "training": 145,
}
# A stage plans with less than its limit, because a single measurement cannot be interrupted.
_PLANNED = 0.85
_STOP_S = 15.0
_BUILD = ("hatchling", "editables")
# Ganymede's requirements on Linux contain onnxruntime-gpu, which also runs on the CPU. onnxruntime
# must never be installed beside it: they overwrite each other's files.
_GANYMEDE = ".[train,gpu]"
_TESTS = ("pytest", "pytest-timeout", "httpx")


@dataclass
class Outcome:
    """How a stage ended: ``ok``, ``failed``, ``stopped`` (at its limit) or ``skipped``."""

    stage: str
    status: str
    seconds: float
    limit_s: float
    reason: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


class Budget:
    """Divides the remaining time among the remaining stages, by their shares."""

    def __init__(self, total_s: float, shares: Mapping[str, float]) -> None:
        self._end = time.monotonic() + total_s
        self._shares = dict(shares)

    def limit_s(self, stage: str) -> float:
        """Return the seconds of a stage that starts now, and remove it from the others."""
        left = max(self._end - time.monotonic(), 0.0)
        total = sum(self._shares.values())
        return left * self._shares.pop(stage) / total


def run_limited(
    command: Sequence[str], limit_s: float, log: Path, **environment: str
) -> tuple[int | None, float]:
    """Run a command in its own process group, with its output in `log`.

    Returns the exit status, or None if it was stopped at the limit, and the seconds. At the limit
    the command gets SIGTERM, so that it can stop servers that it started; what is left of its group
    then gets SIGKILL.
    """
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _stop(process)
    return status, time.monotonic() - started


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pip_commands(python: Path, wheels: Path | None) -> list[list[str]]:
    """Return the commands that install everything, from `wheels` alone if it is given."""
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *source]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    return [
        [*pip, *_BUILD],
        [*pip, "--no-build-isolation", "--editable", _GANYMEDE, *_TESTS],
    ]


def install(environment: Path, wheels: Path | None, limit_s: float, folder: Path) -> Outcome:
    """Install into an environment of its own."""
    started, log = time.monotonic(), folder / "install.log"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    for command in pip_commands(python, wheels):
        left = limit_s - (time.monotonic() - started)
        status, _ = run_limited(command, left, log)
        if status != 0:
            spent = time.monotonic() - started
            if status is None:
                return Outcome("install", "stopped", spent, limit_s, "its time was over")
            lines = log.read_text(errors="replace").splitlines()
            # The first error of pip names the package.
            error = next((line for line in lines if line.startswith("ERROR")), _last_line(log))
            return Outcome("install", "failed", spent, limit_s, error)
    return Outcome("install", "ok", time.monotonic() - started, limit_s)


def run_stage(stage: str, python: Path, limit_s: float, folder: Path, *, dry_run: bool) -> Outcome:
    """Run a stage as a process and return how it ended, with the rows that it wrote."""
    result, log = folder / f"{stage}.json", folder / f"{stage}.log"
    result.unlink(missing_ok=True)
    command = [str(python), "-m", "benchmarks.gpu_stages", stage, "--folder", str(folder)]
    command += ["--seconds", f"{_PLANNED * limit_s:.1f}", *(["--dry-run"] if dry_run else [])]
    # Threads that wait for each other would make tiny networks slow on a busy CPU.
    environment = {"OMP_NUM_THREADS": "1"} if dry_run else {}
    status, spent = run_limited(command, limit_s, log, **environment)
    written = json.loads(result.read_text()) if result.exists() else {"rows": [], "reason": None}
    if status == 0:
        return Outcome(stage, "ok", spent, limit_s, rows=written["rows"])
    if status is None:
        return Outcome(stage, "stopped", spent, limit_s, "its time was over", written["rows"])
    reason = written["reason"] or _last_line(log) or f"exited with {status}"
    return Outcome(stage, "failed", spent, limit_s, reason, written["rows"])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes and rows of all stages as Markdown."""
    lines = ["| stage | status | seconds | limit | reason |", "|---|---|---|---|---|"]
    lines += [
        f"| {o.stage} | {o.status} | {o.seconds:.0f} | {o.limit_s:.0f} | {_cell(o.reason)} |"
        for o in outcomes
    ]
    for outcome in outcomes:
        if not outcome.rows:
            continue
        columns = list(dict.fromkeys(key for row in outcome.rows for key in row))
        lines += ["", f"## {outcome.stage}", "", _line(columns), _line(["---"] * len(columns))]
        lines += [_line([_cell(row.get(key, "")) for key in columns]) for row in outcome.rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    match value:
        case {"median": median, "lowest": lowest, "highest": highest}:
            return f"{median:.4g} ({lowest:.4g} to {highest:.4g})"
        case float():
            return f"{value:.4g}"
        case dict() | list():
            return json.dumps(value).replace("|", "\\|")
        case _:
            return str(value).replace("|", "\\|").replace("\n", " ")


def check(options: argparse.Namespace) -> bool:
    """Run all stages; write the results after each. Returns whether all are ok."""
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    outcomes: list[Outcome] = []

    def add(outcome: Outcome) -> None:
        outcomes.append(outcome)
        passed = all(each.status == "ok" for each in outcomes)
        complete = len(outcomes) == len(SHARES)
        result = {
            "started": started,
            "dry_run": options.dry_run,
            "complete": complete,
            "passed": passed and complete,
            "stages": [asdict(each) for each in outcomes],
        }
        write_json(folder / "result.json", result)
        text = table(outcomes)
        part = folder / "result.md.part"
        part.write_text(text)
        part.replace(folder / "result.md")
        print(f"{outcome.stage}: {outcome.status} after {outcome.seconds:.0f} s {outcome.reason}")
        sys.stdout.flush()

    budget = Budget(60 * options.minutes, SHARES)
    python = Path(sys.executable)
    limit_s = budget.limit_s("install")
    if options.here or options.dry_run:
        # The stage "machine" checks what is installed.
        add(Outcome("install", "ok", 0.0, limit_s, f"uses {python} as it is"))
    else:
        add(install(folder / "environment", options.wheels, limit_s, folder))
        python = folder / "environment" / "bin" / "python"
    for stage in STAGES:
        limit_s = budget.limit_s(stage)
        if outcomes[0].status != "ok":
            add(Outcome(stage, "skipped", 0.0, limit_s, "nothing is installed"))
            continue
        add(run_stage(stage, python, limit_s, folder, dry_run=options.dry_run))
    print(f"\n{table(outcomes)}\n{folder / 'result.json'}\n{folder / 'result.md'}")
    return all(each.status == "ok" for each in outcomes)


def main() -> None:
    """Check, or download the wheels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, help="install from this folder, without an index")
    parser.add_argument("--here", action="store_true", help="install nothing")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU; installs nothing")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything")
    parser.add_argument("--folder", type=Path, default=ROOT / ".gpu-check", help="for all files")
    parser.add_argument("--download", type=Path, metavar="DIR", help="only download the wheels")
    options = parser.parse_args()
    if options.wheels and not options.wheels.is_dir():
        parser.error(f"--wheels: no such folder: {options.wheels}")
    if options.minutes <= 0:
        parser.error(f"--minutes: expected a positive number, got {options.minutes:g}")
    if options.download:
        pip = [sys.executable, "-m", "pip", "download", "--dest", str(options.download)]
        pip += ["--constraint", str(ROOT / "constraints.txt"), *_BUILD, _GANYMEDE, *_TESTS]
        sys.exit(subprocess.run(pip, cwd=ROOT, check=False).returncode)
    sys.exit(not check(options))


if __name__ == "__main__":
    main()
