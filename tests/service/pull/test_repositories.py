"""Model repositories in S3, on the hub and in archives: pinned, verified and cached."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.pull.cache import Fetching, RemoteFile, fetch
from service.pull.checksums import ChecksumMismatch
from service.pull.locations import Location, LocationError
from service.pull.repositories import current_digest, fetch_repository
from service.pull.transfer import DownloadFailed
from service.runtime.errors import UserError
from service.runtime.models.catalog import model_folders
from tests.support.command import assert_one_line_error, run
from tests.support.file_servers import FileServer, Hub, ObjectStore, running
from tests.support.servers import free_port, serving

COMMIT = Hub.commit


@pytest.fixture(scope="module")
def models(tmp_path_factory, drawn_repository):
    """A repository of two small models."""
    folder = tmp_path_factory.mktemp("zoo")
    for model in list(model_folders(drawn_repository))[:2]:
        shutil.copytree(model, folder / model.parent.name / model.name)
    return folder


def files_below(folder, prefix=""):
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sha256sum(folder):
    """The digest of a folder, as the documentation computes it."""
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    process = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    return process.stdout.split()[0]


@pytest.fixture
def store(models, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    with running(ObjectStore(files_below(models, "/zoo"))) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        # File systems are kept, with the address of their server.
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def hub(models):
    pytest.importorskip("huggingface_hub")
    with running(Hub(files_below(models) | {"/.gitattributes": b"*.onnx"})) as server:
        yield server


def run_with_hub(hub, *arguments):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_s3cret",
    }
    return run(*arguments, env=environment)


def archive(models, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(models, "zoo")
    return path.read_bytes()


def test_repository_in_a_store_is_verified_and_cached(store, models, fetching):
    digest = sha256sum(models)
    assert current_digest(Location.parse("s3://bucket/zoo"), fetching).value == digest
    location = Location.parse(f"s3://bucket/zoo#sha256={digest}")
    folder = fetch_repository(location, fetching)
    assert files_below(folder) == files_below(models)
    store.requests.clear()
    assert fetch_repository(location, fetching) == folder
    assert not store.requests


def test_damaged_copy_in_the_cache_is_replaced(store, models, fetching):
    location = Location.parse(f"s3://bucket/zoo#sha256={sha256sum(models)}")
    folder = fetch_repository(location, fetching)
    graph = next(folder.rglob("*.onnx"))
    graph.write_bytes(b"damaged")
    assert files_below(fetch_repository(location, fetching)) == files_below(models)


def test_calls_at_once_fetch_the_repository_once(models, cache):
    location = Location.parse(f"file://{models}#sha256={sha256sum(models)}")
    lines, gate = [], threading.Barrier(4)

    def call(_):
        gate.wait()
        return fetch_repository(location, Fetching(10**9, report=lines.append))

    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(call, range(4)))
    assert files_below(folder) == files_below(models)
    assert len([line for line in lines if line.startswith("fetching ")]) == 1


def test_changed_repository_is_refused(store, models, fetching):
    digest = sha256sum(models)
    name = next(name for name in store.files if name.endswith(".onnx"))
    store.files[name] += b"x"
    with pytest.raises(ChecksumMismatch, match=f"expected sha256:{digest}"):
        fetch_repository(Location.parse(f"s3://bucket/zoo#sha256={digest}"), fetching)


def test_object_is_read_in_parts(store, fetching):
    content = store.files["/g.pth"] = bytes(range(256)) * 100_000
    checksum = hashlib.sha256(content).hexdigest()
    (file,) = fetch([RemoteFile(Location.parse(f"s3://bucket/g.pth#sha256={checksum}"))], fetching)
    assert file.size == len(content)
    # Read in parts, none of them twice.
    offsets = store.offsets("/bucket/g.pth")
    assert len(set(offsets)) > 2


def test_object_without_a_pin_is_used_while_it_is_unchanged(store, fetching):
    store.files["/g.pth"] = b"weights"
    remote = RemoteFile(Location.parse("s3://bucket/g.pth"))
    assert [fetch([remote], fetching)[0].was_cached for _ in range(2)] == [False, True]


def test_missing_object_is_one_clear_error(store, fetching):
    with pytest.raises(DownloadFailed, match=r"s3://bucket/none\.pth does not exist"):
        fetch([RemoteFile(Location.parse("s3://bucket/none.pth"))], fetching)
    with pytest.raises(DownloadFailed, match="contains no files"):
        current_digest(Location.parse("s3://bucket/nothing"), fetching)


def test_archive_is_pinned_by_its_bytes(models, fetching, tmp_path):
    content = archive(models, tmp_path / "zoo.tar.gz")
    with running(FileServer({"/zoo.tar.gz": content})) as server:
        address = f"{server.url}/zoo.tar.gz"
        digest = hashlib.sha256(content).hexdigest()
        assert current_digest(Location.parse(address), fetching).value == digest
        folder = fetch_repository(Location.parse(f"{address}#sha256={digest}"), fetching)
        assert files_below(folder) == files_below(models)
        with pytest.raises(ChecksumMismatch):
            fetch_repository(Location.parse(f"{address}#sha256={'0' * 64}"), fetching)
    # The server is gone, and the cache has it.
    assert fetch_repository(Location.parse(f"{address}#sha256={digest}"), fetching) == folder


@pytest.mark.slow
def test_sample_and_reproduce_take_an_address(models, tmp_path, cache):
    content = archive(models, tmp_path / "zoo.tar.gz")
    name = next(model_folders(models)).parent.name
    out = tmp_path / "out"
    with running(FileServer({"/zoo.tar.gz": content})) as server:
        address = f"{server.url}/zoo.tar.gz#sha256={hashlib.sha256(content).hexdigest()}"
        process = run("sample", name, "--models", address, "--count", "1", "--out", out)
    assert process.returncode == 0, process.stderr
    image = max(out.rglob("*.png"), key=lambda path: len(path.parts))
    # From the cache.
    process = run("reproduce", image, "--models", address)
    assert process.returncode == 0, process.stderr


def test_archive_without_models_is_refused(fetching, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    content = (tmp_path / "a.tar").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with running(FileServer({"/a.tar": content})) as server:
        location = Location.parse(f"{server.url}/a.tar#sha256={digest}")
        with pytest.raises(UserError, match="no model folders"):
            fetch_repository(location, fetching)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://bucket/zoo", "add #sha256=DIGITS;"),
        ("hf://owner/models", "or the commit (hf://OWNER/NAME@COMMIT)"),
        ("hf://owner/models@main", "is not pinned"),
        ("https://a.org/zoo.zip#md5=" + "0" * 32, "expected #sha256=DIGITS"),
        ("https://a.org/zoo#sha256=" + "0" * 64, "is not an archive"),
    ],
)
def test_address_that_can_change_is_refused(address, words, fetching):
    with pytest.raises(LocationError) as raised:
        fetch_repository(Location.parse(address), fetching)
    assert words in str(raised.value)


def test_limit_is_for_the_whole_repository(store, models):
    location = Location.parse(f"s3://bucket/zoo#sha256={sha256sum(models)}")
    with pytest.raises(DownloadFailed, match="the limit is"):
        fetch_repository(location, Fetching(1000))


def test_models_of_the_hub_are_pinned_by_the_commit(hub, models, cache):
    address = f"hf://owner/models@{COMMIT}"
    process = run_with_hub(hub, "models", "--models", address, "--json")
    assert process.returncode == 0, process.stderr
    names = sorted(model.parent.name for model in model_folders(models))
    assert [row["name"] for row in json.loads(process.stdout)] == names
    assert "verified" in process.stderr
    (folder,) = [each for each in (cache / "repositories").iterdir() if each.is_dir()]
    assert files_below(folder) == files_below(models)
    # The token stays with the hub.
    tokens = {
        path.startswith("/owner/"): headers.get("authorization")
        for path, headers in hub.requests
        if not path.startswith("/api/")
    }
    assert tokens == {True: "Bearer hf_s3cret", False: None}


def test_file_of_the_hub_that_is_not_what_the_hub_states_is_refused(hub, models):
    name = next(name for name in hub.files if name.endswith(".onnx"))
    process = run_with_hub(hub, "pull", f"hf://owner/models@{COMMIT}", "--digest")
    assert process.stdout.strip().endswith(f"#sha256={sha256sum(models)}")
    hub.redirects[name] = "/.gitattributes"
    process = run_with_hub(hub, "pull", f"hf://owner/models@{COMMIT}", "--digest", "--refresh")
    assert_one_line_error(process, 1, "it is not the file that was meant")


def test_missing_repository_of_the_hub_is_one_clear_error(hub):
    process = run_with_hub(hub, "pull", f"hf://owner/none@{COMMIT}/g.pth", "--name", "g")
    assert_one_line_error(process, 1, "404", "HF_TOKEN")


def test_service_starts_with_a_pinned_repository(store, models, tmp_path):
    environment = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    location = f"s3://bucket/zoo#sha256={sha256sum(models)}"
    with (
        serving(location, "--insecure-admin", env=environment) as server,
        server.client() as client,
    ):
        listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert sorted(listed) == sorted(model.parent.name for model in model_folders(models))
        assert "verified s3://bucket/zoo" in server.logged()


def test_service_does_not_start_with_a_wrong_digest(store):
    process = run(
        "serve", "--port", str(free_port()), "--models", f"s3://bucket/zoo#sha256={'0' * 64}"
    )
    assert_one_line_error(process, 1, "has the digest sha256:", "nothing of it is used")
