"""The process writes only to the volumes of the Kubernetes manifests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from service.api_keys import add_key
from tests.support.kubernetes import CONTAINER, ENVIRONMENT
from tests.support.servers import ganymede, serving

pytestmark = pytest.mark.slow


def entries_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.iterdir()}


def test_writes_only_to_bentoml_home_and_temporary_folder(drawn_repository, tmp_path):
    """Writes no files to the working directory or caches, and no telemetry of ONNX Runtime."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    # ONNX Runtime disables telemetry if CI is set, which would hide a file that it writes.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "GANYMEDE_CACHE": str(tmp_path / "c"),
    }
    for name in ("BENTOML_HOME", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    command += ganymede("serve", "--models", drawn_repository)
    with serving(drawn_repository, command=command) as server, server.client() as client:
        assert client.post("/v1/generate", json={"model": "cut", "seed": 1}).is_success
    assert entries_of(home) == {"bentoml"}


def test_without_home_bentoml_uses_temporary_folder(drawn_repository, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "BENTOML_HOME"}
    environment |= {"HOME": "/proc/nowhere", "TMPDIR": str(temporary)}
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    command += ganymede("serve", "--models", drawn_repository)
    with serving(drawn_repository, command=command) as server, server.client() as client:
        assert client.post("/v1/generate", json={"model": "cut", "seed": 1}).is_success
    assert any(name.startswith("bentoml-") for name in entries_of(temporary))


# A read-only file system except for one volume, no capabilities, no home, and only the environment
# given.
_CONFINED = """
set -e
mount --make-rprivate /
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs "$1"
shift
cd /
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all env -i "$@"
"""


def test_runs_on_read_only_file_system(drawn_repository, tmp_path):
    """Run with the pod's environment and volumes, in an equivalent mount namespace."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("unshare and setpriv are not here; Debian has them in util-linux")
    volume = tmp_path / "volume"
    volume.mkdir()
    confined = ["unshare", "--mount", "sh", "-c", _CONFINED, "sh", str(volume)]
    attempt = subprocess.run([*confined, "true"], capture_output=True, text=True, check=False)
    if attempt.returncode:
        pytest.skip(f"no mount namespace can be made here: {attempt.stderr.strip()}")
    keys = tmp_path / "keys"
    volumes = {"tmp": volume, "keys": keys}
    key = add_key(keys / "keys.json", "app")
    environment = dict(ENVIRONMENT)
    for mount in CONTAINER["volumeMounts"]:
        for name, value in environment.items():
            if value.startswith(mount["mountPath"]):
                target = str(volumes[mount["name"]])
                environment[name] = value.replace(mount["mountPath"], target, 1)
    environment |= {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    refused = subprocess.run(
        [*confined, f"PATH={os.environ['PATH']}", "touch", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in refused.stderr
    command = [*confined, *(f"{name}={value}" for name, value in environment.items())]
    command += ganymede("serve", "--models", drawn_repository)
    with serving(drawn_repository, command=command) as server, server.client() as client:
        body = {"model": "cut", "seed": 1}
        assert client.post("/v1/generate", json=body).status_code == 401
        assert client.post("/v1/generate", json=body, headers={"x-api-key": key}).is_success
        assert client.get("/metrics").is_success
        assert "Traceback" not in server.logged()
        assert "telemetry" not in server.logged()
