"""Jobs over the small models of tests/support/drawn_models.py, by the real command."""

import json
import subprocess
from pathlib import Path

import pytest

from service.offline.job import make_job
from service.runtime.models.manifest import read_manifest
from tests.service.conftest import drawn_repository, drawn_server
from tests.support.servers import ganymede

__all__ = ["drawn_repository", "drawn_server"]


@pytest.fixture
def run(drawn_repository):
    """Run `ganymede sample` with those models; return the process that has ended."""

    def sample(model, out, *flags, code=0):
        command = ganymede("sample", model, "--models", drawn_repository, "--out", out, *flags)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return sample


@pytest.fixture
def manifest_of(drawn_repository):
    def read(name):
        return read_manifest(drawn_repository / name / "1")

    return read


@pytest.fixture
def job_of(manifest_of):
    def make(name="painted-classes", **wishes):
        return make_job(manifest_of(name), **{"count": 10} | wishes)

    return make


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of a job but its summary, which says how long it took."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }
