"""Files that cannot be written completely because the disk is full.

This is simulated by a limit on the size of files, which works everywhere, and by a file system of a
few pages, which needs the permission to mount it.
"""

import contextlib
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from service.runtime.files import CannotWrite
from tests.support.servers import ganymede, serving, wait_until
from tests.support.tiny_recipes import TINY

pytestmark = pytest.mark.slow

PAGE = 4096


class Disk:
    """A folder that holds files of a few hundred bytes, but no larger ones."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        self._limit = limit

    def run(self, command):
        # Python would leave incomplete bytecode files, and fail on them later.
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            self.limited(command),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env=environment,
        )

    def limited(self, command):
        if self._limit is None:
            return command
        # In KiB. bash makes its children ignore the signal that would kill Python.
        return ["bash", "-c", f'ulimit -f {self._limit // 1024}; exec "$@"', "bash", *command]

    def names(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@contextlib.contextmanager
def mounted(folder, pages):
    """Mount a file system of `pages` pages; skips the test without the permission."""
    folder.mkdir()
    options = f"size={pages * PAGE}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "ganymede-test", str(folder)]
    try:
        process = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("the command mount is not available")
    if process.returncode:
        pytest.skip(f"cannot mount a file system: {process.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(folder):
    """Fill the file system."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(PAGE)):
            pass


@pytest.fixture(params=["limit", "mount"])
def full(request, tmp_path):
    if request.param == "limit":
        (tmp_path / "disk").mkdir()
        yield Disk(tmp_path / "disk", 1024)
        return
    with mounted(tmp_path / "disk", 16) as folder:
        fill_disk(folder)
        yield Disk(folder, None)


@contextlib.contextmanager
def files_of_at_most(size):
    """Limit the size of files that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_one_line(process):
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("Error: ")
    assert len(process.stderr.splitlines()) == 1, process.stderr


def test_reproduce_on_full_disk_leaves_no_file(drawn_repository, full, tmp_path):
    with serving(drawn_repository) as server, server.client() as client:
        request = {"model": "painted", "seed": 1, "format": "png"}
        content = client.post("/v1/generate", json=request).content
    (tmp_path / "a.png").write_bytes(content)
    before = full.names()
    command = ganymede("reproduce", tmp_path / "a.png", "--models", drawn_repository)
    process = full.run([*command, "--out", str(full.folder)])
    assert_one_line(process)
    assert "a.png cannot be written" in process.stderr
    assert full.names() == before
    assert subprocess.run([*command, "--out", tmp_path / "free"], check=False).returncode == 0
    assert (tmp_path / "free" / "a.png").read_bytes() == content


def test_keys_on_full_disk_leave_file_unchanged(full):
    keys = full.folder / "keys.json"
    if "ballast" in full.names():
        # Room for the first key only.
        (full.folder / "ballast").write_bytes(bytes(12 * PAGE))
    assert full.run(ganymede("keys", "add", "first", "--keys", str(keys))).returncode == 0
    if "ballast" in full.names():
        fill_disk(full.folder)
    before = keys.read_bytes()
    for number in range(9):  # A few keys fit.
        process = full.run(ganymede("keys", "add", f"name-{number}", "--keys", str(keys)))
        if process.returncode:
            break
        before = keys.read_bytes()
    assert_one_line(process)
    assert "gnm_" not in process.stdout
    assert keys.read_bytes() == before
    assert {"keys.json"} <= set(full.names()) <= {"keys.json", ".keys.json.lock", "ballast"}


def test_serves_with_full_disk_and_log(drawn_repository, full):
    # Measured plans are written to a file.
    environment = {"GANYMEDE_PLAN": "measure", "GANYMEDE_CACHE": str(full.folder / "cache")}
    environment |= {"GANYMEDE_INSECURE_ADMIN": "1"}
    environment |= {"BENTOML_HOME": str(full.folder / "bentoml"), "TMPDIR": str(full.folder)}
    quiet = ["bash", "-c", 'exec "$@" > /dev/full 2>&1', "bash"]
    command = [*quiet, *full.limited(ganymede("serve", "--models", drawn_repository))]
    requests = [
        ("generate", {"seed": 1}),
        ("generate", {"n": 8, "format": "zip"}),
        ("generate", {"n": 8, "format": "npy"}),
        ("mix-styles", {"rows": [1, 2], "columns": [3], "format": "webp"}),
        ("interpolate", {"sources": [1, 2], "frames": 20, "format": "webp"}),
    ]
    with serving(drawn_repository, env=environment, command=command) as server:
        with server.client() as client:
            for route, body in requests:
                response = client.post(f"/v1/{route}", json={"model": "painted"} | body)
                assert response.status_code == 200, response.text
            assert client.post("/v1/generate", json={"model": "unknown"}).status_code == 404
            assert client.post("/v1/admin/reload").json()["failed"] == []
            assert client.get("/metrics").status_code == 200
        server.process.terminate()
        assert server.process.wait(40) == 0
    # The lock is an empty file that stays; a file that was being written must not.
    partial = {name for name in full.names() if "plans.json." in name}
    assert not partial - {"cache/plans.json.lock"}
    plans = full.folder / "cache" / "plans.json"
    assert not plans.exists() or json.loads(plans.read_text())


def test_job_waits_for_space_and_goes_on(drawn_repository, tmp_path):
    with mounted(tmp_path / "disk", 1024) as folder:
        environment = {"GANYMEDE_JOBS": str(folder / "jobs")}
        with serving(drawn_repository, env=environment) as server, server.client() as client:
            body = {"model": "painted", "count": 2000, "shard_size": 200}
            wait_until(lambda: client.get("/v1/jobs").status_code == 200)
            url = client.post("/v1/jobs", json=body).headers["location"]
            wait_until(lambda: "space" in client.get(url).json().get("error", ""))
            job = client.get(url).json()
            assert (job["state"], job["images"] < 2000) == ("queued", True)
            # Not even the table can be changed now.
            fill_disk(folder)
            for _ in range(20):
                response = client.post("/v1/jobs", json={"model": "painted", "count": 1})
                assert response.status_code in (202, 503), response.text
                assert client.get("/v1/jobs").status_code == 200
            generated = client.post("/v1/generate", json={"model": "painted", "seed": 1})
            assert generated.status_code == 200
            subprocess.run(["mount", "-o", "remount,size=64M", folder], check=True)
            (folder / "ballast").unlink()
            wait_until(lambda: client.get(url).json()["state"] == "done", 120)
            job = client.get(url).json()
            assert (job["images"], job["failed"], "error" in job) == (2000, 0, False)
            (metadata,) = [file for file in job["files"] if file["name"] == "metadata.jsonl"]
            assert len(client.get(metadata["url"]).text.splitlines()) == 2000
            assert "Traceback" not in server.logged()


def test_unwritable_output_is_one_line(drawn_repository):
    with Path("/dev/full").open("w") as out:
        process = subprocess.run(
            ganymede("models", "--models", drawn_repository, "--json"),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert_one_line(process)


def test_checkpoint_and_export_on_full_disk_leave_no_file(digits, tmp_path):
    from training.checkpoints import Checkpoint
    from training.export.exporter import export_run
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train

    run = Run(tmp_path / "run")
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    train(load_recipe("gan-mnist", overrides), run)
    original = run.checkpoint_path.read_bytes()
    state = Checkpoint.load(run.checkpoint_path)
    # Within PyTorch's write buffer, in the middle of a tensor, and in the last bytes.
    for size in (1000, len(original) // 2, len(original) - 1):
        with files_of_at_most(size), pytest.raises(CannotWrite, match="cannot be written"):
            state.save(run.checkpoint_path)
        assert run.checkpoint_path.read_bytes() == original
    with files_of_at_most(1000), pytest.raises(CannotWrite, match="cannot be written"):
        export_run(run, "m", tmp_path / "models")
    assert not list((tmp_path / "models").rglob("*"))
