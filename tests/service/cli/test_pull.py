"""`ganymede pull` as a user runs it, with local servers."""

import hashlib
import json
import os
import resource
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from service.pull.catalog import read_catalog
from service.runtime.models.catalog import model_folders
from service.runtime.models.manifest import read_manifest
from tests.support.checkpoint_layouts import ncnn
from tests.support.checkpoint_layouts.compact import compact_shapes
from tests.support.checkpoints import random_tensors
from tests.support.command import assert_one_line_error, run
from tests.support.file_servers import FileServer, running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "net.pth"
    torch.save(random_tensors(compact_shapes(1, 2)), path)
    return path.read_bytes()


@pytest.fixture
def server(checkpoint):
    with running(FileServer({"/net.pth": checkpoint})) as server:
        yield server


@pytest.fixture(scope="module")
def model_folder(drawn_repository):
    return next(model_folders(drawn_repository))


def pinned(server, path="/net.pth"):
    return f"{server.url}{path}#sha256={hashlib.sha256(server.files[path]).hexdigest()}"


def test_lists_the_catalog():
    process = run("pull", env={**os.environ, "COLUMNS": "40"})
    assert process.returncode == 0
    for model in read_catalog().values():
        assert model.name in process.stdout
    assert "Photographs of faces" in process.stdout


def test_lists_the_catalog_as_json():
    rows = json.loads(run("pull", "--json").stdout)
    assert [row["name"] for row in rows] == list(read_catalog())
    row = next(row for row in rows if row["name"] == "stylegan2-ffhq")
    assert row["license"]["conditions"].startswith("Non-commercial")
    assert row["files"][0]["stated_by"].startswith("https://")
    assert (row["check"], row["size"]) == ("sha256", 381_624_121)


def test_help_has_an_example():
    assert "Example: ganymede pull" in " ".join(run("pull", "--help").stdout.split())


def test_unknown_name_is_one_clear_error(tmp_path):
    process = run("pull", "realesrgan", "--models", tmp_path)
    assert_one_line_error(process, 2, "did you mean", "realesrgan-x4")


def test_conditions_are_shown_and_need_consent(tmp_path):
    process = run("pull", "stylegan2-ffhq", "--models", tmp_path)
    assert_one_line_error(process, 2, "--accept-license")
    assert "Non-commercial: research or evaluation only." in process.stdout
    assert "sha256:a205a346" in process.stdout


def test_unknown_checksum_needs_consent(tmp_path):
    process = run("pull", "cyclegan-horse2zebra", "--models", tmp_path)
    assert_one_line_error(process, 2, "the checksum is unknown", "--yes")
    process = run("pull", "stylegan2-metfaces", "--accept-license", "--models", tmp_path)
    assert_one_line_error(process, 2, "the checksum is unknown", "--yes")


@pytest.mark.slow
def test_checkpoint_is_downloaded_and_imported(server, tmp_path):
    models = tmp_path / "models"
    arguments = ("pull", pinned(server), "--name", "up", "--license", "MIT", "--models", models)
    process = run(*arguments, "--json", "--", "--side", "32")
    assert process.returncode == 0, process.stderr
    (row,) = json.loads(process.stdout)
    assert (row["name"], row["version"]) == ("up", "1")
    manifest = read_manifest(models / "up" / "1")
    assert (manifest.license, manifest.input.side) == ("MIT", 32)
    digest = hashlib.sha256(server.files["/net.pth"]).hexdigest()
    assert manifest.provenance.source_sha256 == digest
    # The same again changes nothing, and needs no server.
    server.files.clear()
    process = run(*arguments)
    assert process.returncode == 0
    assert "imported from the same file already" in process.stdout
    assert [each.name for each in (models / "up").iterdir()] == ["1"]


@pytest.mark.slow
def test_networks_of_ncnn_with_the_same_weights_are_different_models(tmp_path):
    layers, weights, _ = ncnn.upscaler(np.random.default_rng(1))
    path = ncnn.write_network(tmp_path / "a.param", layers, weights)
    param, data = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    files = {"/a.param": param, "/a.bin": data, "/b.param": param, "/b.bin": data}
    models = tmp_path / "models"
    with running(FileServer(files)) as server:
        for name, expected in (("a", "wrote"), ("a", "already"), ("b", "wrote")):
            process = run("pull", f"{server.url}/{name}.param", "--name", "up", "--models", models)
            assert process.returncode == 0, process.stderr
            assert expected in process.stdout
            assert f"{name}.bin is not verified; its sha256 is " in process.stdout
    assert [read_manifest(models / "up" / each).provenance.source_file for each in "12"] == [
        "a.bin",
        "b.bin",
    ]


def test_address_without_a_checksum_is_named_as_such(tmp_path):
    content = b"not a checkpoint"
    with running(FileServer({"/net.pth": content})) as server:
        process = run("pull", f"{server.url}/net.pth", "--models", tmp_path)
    digest = hashlib.sha256(content).hexdigest()
    assert f"not verified, because the address has no #sha256={digest}" in process.stdout
    assert_one_line_error(process, 2, "net.pth is not a checkpoint")
    assert "\r" not in process.stderr


def test_wrong_digest_leaves_nothing(server, cache, tmp_path):
    process = run("pull", f"{server.url}/net.pth#sha256={'0' * 64}", "--models", tmp_path / "m")
    assert_one_line_error(process, 1, "wrong checksum", "it was deleted")
    assert not (tmp_path / "m").exists()
    assert not list((cache / "downloads").glob("*/*"))


def test_full_disk_is_one_clear_error_and_the_download_continues(server, tmp_path):
    server.files["/net.pth"] = bytes(500_000)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    process = run("pull", pinned(server), "--models", tmp_path, preexec_fn=limit)
    assert_one_line_error(process, 1, "cannot be written")
    server.requests.clear()
    process = run("pull", pinned(server), "--models", tmp_path)
    assert "downloaded, sha256" in process.stdout
    assert server.offsets("/net.pth") == [200_000]


@pytest.mark.parametrize("ending", ["zip", pytest.param("tar.gz", marks=pytest.mark.slow)])
def test_archive_of_a_model_folder_is_added(model_folder, tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in model_folder.iterdir():
                archive.write(file, f"some/folder/{file.name}")
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(model_folder, "folder")
    models = tmp_path / "models"
    with running(FileServer({f"/model.{ending}": path.read_bytes()})) as server:
        address = pinned(server, f"/model.{ending}")
        for expected in ("wrote", "is the same model already"):
            process = run("pull", address, "--name", "mine", "--models", models)
            assert process.returncode == 0, process.stderr
            assert expected in process.stdout
    manifest = read_manifest(models / "mine" / "1")
    assert (manifest.name, manifest.version) == ("mine", "1")
    assert manifest.digest == read_manifest(model_folder).digest
    rows = json.loads(run("models", "--models", models, "--json").stdout)
    assert [(row["name"], row["state"]) for row in rows] == [("mine", "ready")]


@pytest.mark.slow
def test_pulls_of_one_model_at_once_add_it_once(model_folder, tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in model_folder.iterdir():
            archive.write(file, f"folder/{file.name}")
    models = tmp_path / "models"
    with running(FileServer({"/model.zip": path.read_bytes()})) as server:
        arguments = ("pull", pinned(server, "/model.zip"), "--name", "mine", "--models", models)
        with ThreadPoolExecutor(3) as pool:
            processes = list(pool.map(lambda _: run(*arguments), range(3)))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("wrote" in process.stdout for process in processes) == 1
    assert [each.name for each in (models / "mine").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "Not a slug"), "cannot be used in a URL"),
        (("--name", "mine", "--version", "7"), "exists already"),
    ],
)
def test_refuses_a_name_or_version_before_the_download(server, tmp_path, options, words):
    (tmp_path / "mine" / "7").mkdir(parents=True)
    process = run("pull", pinned(server), "--models", tmp_path, *options)
    assert_one_line_error(process, 1, words)
    assert not server.requests


def test_damaged_model_folder_is_refused(model_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    graph = next(broken.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-10] + bytes(10))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(broken, "model")
    with running(FileServer({"/a.tar": (tmp_path / "a.tar").read_bytes()})) as server:
        process = run("pull", pinned(server, "/a.tar"), "--models", tmp_path / "models")
    assert process.returncode != 0
    assert "Traceback" not in process.stderr
    assert "sha256" in process.stderr
    assert not list((tmp_path / "models").rglob("model.json"))


@pytest.mark.slow
def test_checkpoint_in_an_archive_is_imported(checkpoint, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("weights/net.pth", checkpoint)
        archive.writestr("readme.txt", "text")
    with running(FileServer({"/a.zip": (tmp_path / "a.zip").read_bytes()})) as server:
        process = run("pull", pinned(server, "/a.zip"), "--models", tmp_path / "models")
        assert process.returncode == 0, process.stderr
        assert (tmp_path / "models" / "net" / "1").is_dir()
        process = run("pull", pinned(server, "/a.zip"), "--member", "x", "--models", tmp_path)
        assert_one_line_error(process, 2, "--member", "weights/net.pth")
