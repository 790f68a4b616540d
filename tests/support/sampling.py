"""Runs `ganymede sample` in tests, and reads its output."""

import json
import subprocess
from pathlib import Path

from tests.support.servers import ganymede


def run_sample(
    models: Path, model: str, out: Path | str, *flags: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command, and check its exit code and that it prints no stack trace."""
    command = ganymede("sample", model, "--models", models, "--out", out, *flags)
    process = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert process.returncode == code, f"{process.stdout}\n{process.stderr}"
    assert "Traceback" not in process.stderr
    return process


def read_metadata(out: Path) -> list[dict]:
    """Return the lines of a job's metadata file."""
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def read_files(out: Path) -> dict[str, bytes]:
    """Return all files of a job except the summary, which contains its running time."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }


def messages(stderr: str) -> list[str]:
    """Return the lines of standard error without those of progress, which a busy machine adds."""
    return [line for line in stderr.splitlines() if not line.startswith("generating:")]
