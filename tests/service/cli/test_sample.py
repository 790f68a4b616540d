"""`ganymede sample` as a user runs it: outputs, rejected input, interruption and resumption."""

import io
import json
import random
import signal
import subprocess
import tarfile
import time
import zipfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from service.offline.engines import local
from service.offline.execution import remaining_shards, write_summary
from service.offline.job import Layout, make_job
from service.offline.ledger import Ledger
from service.offline.reproduce import reproduce
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import write_failing
from tests.support.latent_models import write_directions, write_latent_models
from tests.support.output_models import TEXT_MODEL
from tests.support.sampling import messages, read_files, read_metadata, run_sample
from tests.support.scored_models import write_scored_models
from tests.support.servers import ganymede, serving, wait_until


# Outputs that several tests read. Tests must not change them.
@pytest.fixture(scope="module")
def plain_folder(run, tmp_path_factory):
    """20 images of a model without classes, in a folder."""
    out = tmp_path_factory.mktemp("plain") / "out"
    run("painted", out, "--count", "20")
    return out


@pytest.fixture(scope="module")
def tar_shards(run, tmp_path_factory):
    """250 images of a class-conditional model, in three tar shards."""
    out = tmp_path_factory.mktemp("tars") / "out"
    flags = ["--count", "250", "--shard-size", "100", "--format", "webdataset"]
    run("painted-classes", out, *flags)
    return out


@pytest.mark.parametrize("model", ["painted", "painted-classes", "cut"])
def test_images_equal_service_images(run, drawn_server, tmp_path, model):
    run(model, tmp_path / "out", "--count", "12", "--seed", "40")
    lines = read_metadata(tmp_path / "out")
    assert [line["seed"] for line in lines] == list(range(40, 52))
    with drawn_server.client() as client:
        for line in lines:
            body = {"model": model, "seed": line["seed"], "format": "png"}
            body |= {key: line[key] for key in ("class", "truncation") if key in line}
            response = client.post("/v1/generate", json=body)
            assert response.content == (tmp_path / "out" / line["file_name"]).read_bytes()


def test_classes_and_truncation_equal_service(run, drawn_server, tmp_path):
    flags = ["--classes", "dog=1,cat=2", "--truncation", "0.5", "--image", "webp"]
    run("painted-classes", tmp_path / "out", "--count", "9", *flags)
    lines = read_metadata(tmp_path / "out")
    assert {line["truncation"] for line in lines} == {0.5}
    assert {line["class"] for line in lines} <= {"dog", "cat"}
    with drawn_server.client() as client:
        for line in lines:
            body = {"model": "painted-classes", "seed": line["seed"], "truncation": 0.5}
            body |= {"class": {"dog": 1, "cat": 2}, "format": "webp"}
            response = client.post("/v1/generate", json=body)
            assert response.content == (tmp_path / "out" / line["file_name"]).read_bytes()


@pytest.mark.parametrize(
    "flags", [["--mix", "coarse"], ["--mix", "fine,0", "--classes", "dog"], ["--resize", "24x40"]]
)
def test_each_image_can_be_reproduced(run, drawn_repository, tmp_path, flags):
    run("painted-classes", tmp_path / "out", "--count", "5", *flags)
    for line in read_metadata(tmp_path / "out"):
        path = tmp_path / "out" / line["file_name"]
        assert reproduce(path, drawn_repository).identical
        if "--resize" in flags:
            assert Image.open(path).size == (24, 40)


def test_mixed_images_equal_service_images(run, drawn_server, tmp_path):
    run("painted", tmp_path / "out", "--count", "6", "--mix", "coarse")
    (first, *_) = read_metadata(tmp_path / "out")
    with drawn_server.client() as client:
        body = {"model": "painted", "rows": [first["row"]["seed"]], "layers": "coarse"}
        body |= {"columns": [first["column"]["seed"]], "format": "npy"}
        (mixed,) = np.load(io.BytesIO(client.post("/v1/mix-styles", json=body).content))
    written = np.asarray(Image.open(tmp_path / "out" / first["file_name"]))
    np.testing.assert_array_equal(written, mixed)


def test_edited_images_equal_service_images_and_are_reproduced(
    run, drawn_server, drawn_repository, tmp_path
):
    flags = ["--count", "3", "--seed", "5", "--directions", "warm=-2,bright=1.5"]
    run("movable", tmp_path / "out", *flags)
    records = read_metadata(tmp_path / "out")
    paths = [tmp_path / "out" / each["file_name"] for each in records]
    assert records[0]["directions"] == {"bright": 1.5, "warm": -2.0}
    with drawn_server.client() as client:
        amounts = {"bright": 1.5, "warm": -2.0}
        body = {"model": "movable", "seed": 5, "n": 3, "directions": amounts, "format": "zip"}
        archive = zipfile.ZipFile(io.BytesIO(client.post("/v1/edit", json=body).content))
    assert [path.read_bytes() for path in paths] == [
        archive.read(name) for name in archive.namelist()
    ]
    assert reproduce(paths[2], drawn_repository).identical


def test_job_of_changed_directions_is_refused(tmp_path):
    models, flags = tmp_path / "models", ["--count", "2", "--directions", "bright=1"]
    write_latent_models(models)
    run_sample(models, "movable", tmp_path / "out", *flags)
    write_directions(models / "movable" / "1", seed=99)
    result = run_sample(models, "movable", tmp_path / "out", *flags, code=2)
    assert "its directions sha256 is" in result.stderr


def test_datasets_reads_folder(run, tmp_path):
    from datasets import load_dataset

    run("painted-classes", tmp_path / "out", "--count", "12", "--classes", "balanced")
    out = tmp_path / "out"
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["cat", "dog", "night-owl"]
    rows = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=tmp_path / "c")
    assert len(rows) == 12
    assert {row["seed"] for row in rows} == set(range(12))


def test_webdataset_reads_tar_shards(tar_shards):
    import webdataset

    shards = sorted(map(str, tar_shards.glob("*.tar")))
    assert len(shards) == 3
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [row["json"]["seed"] for row in rows] == list(range(250))
    assert [row["__key__"] for row in rows] == [f"seed-{seed:03}" for seed in range(250)]
    assert {row["png"].dtype for row in rows} == {np.dtype(np.uint8)}
    names = {row["json"]["class_name"]: row["cls"] for row in rows}
    assert len(names) == len(set(names.values()))


def test_other_readers_read_tar_shards(tar_shards):
    lines = read_metadata(tar_shards)
    for line in lines:
        with tarfile.open(tar_shards / line["shard"]) as tar:
            file = tar.extractfile(line["member"]).read()
            assert json.loads(Image.open(io.BytesIO(file)).text["ganymede"])["seed"] == line["seed"]
    listing = subprocess.run(
        ["tar", "tf", tar_shards / lines[0]["shard"]], capture_output=True, check=True
    )
    assert not listing.stderr


def test_datasets_reads_parquet(run, tmp_path):
    from datasets import load_dataset

    flags = ["--count", "250", "--shard-size", "120", "--format", "parquet"]
    run("painted-classes", tmp_path / "out", *flags)
    files = sorted(map(str, (tmp_path / "out").glob("*.parquet")))
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=tmp_path / "c")
    assert rows["seed"] == list(range(250))
    assert rows.features["label"].names == ["cat", "dog", "night owl"]
    assert rows[3]["image"].size == (24, 24)


def test_complete_job_is_not_changed(run, plain_folder):
    before = read_files(plain_folder)
    summary = (plain_folder / "summary.json").read_bytes()
    assert "already complete" in run("painted", plain_folder, "--count", "20").stdout
    assert read_files(plain_folder) == before
    assert (plain_folder / "summary.json").read_bytes() == summary


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "--count"),
        ([], "--count"),
        (["--count", "3", "--mix", "nowhere"], "--mix"),
        (["--count", "3", "--classes", "cat"], "not class-conditional"),
        (["--count", "1000000000"], "not enough disk space"),
    ],
)
def test_invalid_input_gives_one_line_error_and_writes_nothing(run, tmp_path, flags, message):
    process = run("painted", tmp_path / "out", *flags, code=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unknown_model_or_version_error_lists_alternatives(run, tmp_path):
    assert "available: " in run("unknown", tmp_path / "out", "--count", "1", code=2).stderr
    assert "no version '9'" in run("painted@9", tmp_path / "out", "--count", "1", code=2).stderr


def test_folder_of_another_job_is_not_changed(run, plain_folder):
    before = read_files(plain_folder)
    process = run("painted", plain_folder, "--count", "21", code=2)
    assert "another job: its count" in process.stderr
    assert read_files(plain_folder) == before


def test_rejects_outputs_that_are_not_empty_folders(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in run("painted", tmp_path / "mine", "--count", "1", code=2).stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    assert "is not a folder" in run("painted", tmp_path / "file", "--count", "1", code=2).stderr
    process = run("painted", "/proc/nowhere", "--count", "1", code=2)
    assert len(process.stderr.splitlines()) == 1


def test_unknown_url_scheme_gives_one_line_error(run):
    process = run("painted", "nothing://there", "--count", "1", code=2)
    assert len(process.stderr.splitlines()) == 1


def test_rejects_unwritable_output(drawn_repository, tmp_path):
    out = tmp_path / "out"
    command = ganymede("sample", "painted", "--models", drawn_repository, "--out", out)
    # A limit on file sizes, because root ignores permissions.
    limited = ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "bash", *command]
    process = subprocess.run(
        [*limited, "--count", "3"], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_file_url_is_a_folder(run, tmp_path):
    run("painted", f"file://{tmp_path}/out", "--count", "5")
    assert len(read_metadata(tmp_path / "out")) == 5


@pytest.mark.parametrize("layout", Layout)
def test_resumed_job_in_object_store_equals_folder(
    drawn_repository, output_repository, tmp_path, layout
):
    """Object stores such as `s3://` have no folders, and cannot rename files."""
    if layout is Layout.JSONL:
        folder, classes = output_repository / TEXT_MODEL / "1", None
    else:
        folder, classes = drawn_repository / "painted-classes" / "1", "balanced"
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    job = make_job(model.manifest, count=30, classes=classes, layout=layout, shard_size=10)
    for url, shards in ((str(tmp_path / "out"), [0, 1, 2]), (f"memory://{layout}/out", [1])):
        store = Store(url)
        builder, ledger = ShardBuilder(model, job, store), Ledger(store, job)
        ledger.begin()
        local.run(builder, shards, 2, lambda *_: None, lambda: False)
        remaining, records = remaining_shards(job, ledger)
        assert remaining == sorted({0, 1, 2} - set(shards))
        records += local.run(builder, remaining, 2, lambda *_: None, lambda: False)
        assert not ledger.is_complete()
        write_summary(builder.renderer, job, ledger, records, 1.0)
        assert ledger.is_complete()
    files = read_files(tmp_path / "out")
    objects = fsspec.filesystem("memory")
    paths = {path.partition("/out/")[2]: path for path in objects.find(f"/{layout}/out")}
    assert paths.keys() == files.keys() | {"summary.json"}
    assert {name: objects.cat_file(paths[name]) for name in files} == files


def test_json_prints_progress_events(run, tmp_path):
    process = run("painted", tmp_path / "out", "--count", "40", "--json")
    events = [json.loads(line) for line in process.stdout.splitlines()]
    assert events[0]["event"] == "start"
    assert events[0]["images"] == 40
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["images"] == progress[-1]["of"] == 40
    assert events[-1]["event"] == "done"
    assert events[-1]["images"] == 40
    assert events[-1]["failed"] == []


def test_failed_images_are_reported_and_do_not_affect_others(tmp_path):
    models = tmp_path / "models"
    write_failing(models / "failing" / "1")
    process = run_sample(models, "failing", tmp_path / "out", "--count", "40", code=3)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    # The graph fails for a latent whose first component is negative.
    failing = [s for s in range(40) if np.random.RandomState(s).randn(1, 8)[0, 0] < 0]
    assert summary["failed"] == failing
    assert [line["seed"] for line in read_metadata(tmp_path / "out")] == sorted(
        set(range(40)) - set(failing)
    )
    assert f"{len(failing)} failed" in process.stdout


def start_sample(drawn_repository, out, *flags):
    command = ganymede("sample", "painted-classes", "--models", drawn_repository, "--out", out)
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "kills", "count"),
    [
        ("folder", 5, 1500),
        pytest.param("folder", 20, 4000, marks=pytest.mark.slow),
        ("webdataset", 5, 1500),
        ("parquet", 5, 1500),
    ],
)
def test_killed_job_resumes_with_the_same_output(
    run, drawn_repository, tmp_path, layout, kills, count
):
    flags = [
        "--count",
        str(count),
        "--shard-size",
        "25",
        "--format",
        layout,
        "--classes",
        "balanced",
    ]
    run("painted-classes", tmp_path / "uninterrupted", *flags)
    rng = random.Random()
    # Some processes are killed during the start, most of them after they wrote further shards.
    early = kills // 5
    waits = rng.sample([0.5] * early + [60] * (kills - early), kills)
    out, done_before = tmp_path / "killed", []
    for wait in waits:
        process = start_sample(drawn_repository, out, *flags)
        records = out / ".ganymede" / "shards"
        before = len(list(records.iterdir())) if records.is_dir() else 0
        until = time.monotonic() + wait
        while time.monotonic() < until and process.poll() is None:
            if records.is_dir() and len(list(records.iterdir())) > before:
                time.sleep(rng.uniform(0.0, 0.02))
                break
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the job ended before it was killed"
        done_before.append(before)
    assert len(set(done_before)) > kills // 2
    run("painted-classes", out, *flags)
    assert read_files(out) == read_files(tmp_path / "uninterrupted")
    assert sorted(line["seed"] for line in read_metadata(out)) == list(range(count))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_job_cleanly(drawn_repository, tmp_path, number):
    flags = ["--count", "200000", "--shard-size", "50", "--format", "webdataset"]
    process = start_sample(drawn_repository, tmp_path / "out", *flags)
    records = tmp_path / "out" / ".ganymede" / "shards"
    until = time.monotonic() + 60
    while not (records.is_dir() and any(records.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "run the same command to resume" in stderr
    assert not list((tmp_path / "out" / ".ganymede" / "writing").glob("*"))
    done = len(list(records.iterdir()))
    assert len(list((tmp_path / "out").glob("*.tar"))) == done


def test_rejects_second_process_on_the_same_output(drawn_repository, run, tmp_path):
    flags = ["--count", "200000", "--shard-size", "50"]
    process = start_sample(drawn_repository, tmp_path / "out", *flags)
    until = time.monotonic() + 60
    while not (tmp_path / "out" / ".ganymede" / "job.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    second = run("painted-classes", tmp_path / "out", *flags, code=2)
    assert "another process is writing" in second.stderr
    process.terminate()
    process.communicate(timeout=60)


def test_job_resumes_after_a_full_disk(run, drawn_repository, tmp_path):
    """A limit on file sizes simulates a full disk."""
    out = tmp_path / "out"
    flags = ["--count", "2000", "--shard-size", "500", "--format", "webdataset"]
    command = ganymede("sample", "painted-classes", "--models", drawn_repository, "--out", out)
    limited = ["bash", "-c", 'ulimit -f 600; trap "" XFSZ; exec "$@"', "bash", *command, *flags]
    process = subprocess.run(limited, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 1, process.stderr
    assert len(messages(process.stderr)) == 1, process.stderr
    assert "run the same command to resume" in process.stderr
    assert not list(out.glob("*.tar"))
    run("painted-classes", out, *flags)
    run("painted-classes", tmp_path / "uninterrupted", *flags)
    assert read_files(out) == read_files(tmp_path / "uninterrupted")


@pytest.fixture(scope="module")
def scored_repository(tmp_path_factory):
    """Models with discriminators."""
    models = tmp_path_factory.mktemp("scored")
    write_scored_models(models)
    return models


def test_selects_images_by_their_score(scored_repository, tmp_path):
    flags = ["--count", "12", "--seed", "30", "--rank", "0.25", "--classes", "balanced"]
    run_sample(scored_repository, "cut", tmp_path / "out", *flags)
    lines = read_metadata(tmp_path / "out")
    assert len({line["seed"] for line in lines}) == 12
    assert all(30 <= line["seed"] < 78 for line in lines)
    assert [line["class"] for line in lines] == ["cat", "dog", "night owl"] * 4
    path = tmp_path / "out" / lines[0]["file_name"]
    assert reproduce(path, scored_repository).identical
    for value, words in (("2", "from 0.001 to 1, got 2"), ("best=0.5", "such as 0.25")):
        failed = run_sample(
            scored_repository, "cut", tmp_path / "none", "--count", "2", "--rank", value, code=2
        )
        assert messages(failed.stderr)[0].startswith("Error: --rank: ")
        assert words in failed.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0.25", "rejection=0.25"])
def test_selected_images_equal_those_of_the_service(scored_repository, tmp_path, rank):
    method, _, share = rank.rpartition("=")
    value = {"share": float(share), "method": method or "rank"}
    flags = ["--count", "10", "--seed", "500", "--rank", rank]
    run_sample(scored_repository, "painted-classes", tmp_path / "out", *flags)
    body = {"model": "painted-classes", "n": 10, "seed": 500, "rank": value, "format": "zip"}
    with serving(scored_repository) as server, server.client() as client:
        response = client.post("/v1/generate", json=body)
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        served = [archive.read(name) for name in archive.namelist()]
    lines = read_metadata(tmp_path / "out")
    assert response.headers["x-ganymede-seed"] == ",".join(str(line["seed"]) for line in lines)
    assert served == [(tmp_path / "out" / line["file_name"]).read_bytes() for line in lines]


@pytest.mark.slow
def test_killed_selection_resumes_with_the_same_output(scored_repository, tmp_path):
    flags = ["--count", "4000", "--rank", "0.2", "--shard-size", "50", "--format", "webdataset"]
    process = start_sample(scored_repository, tmp_path / "killed", *flags)
    shards = tmp_path / "killed" / ".ganymede" / "shards"
    wait_until(lambda: len(list(shards.glob("*.jsonl"))) >= 3 or process.poll() is not None)
    assert process.poll() is None
    process.kill()
    process.wait()
    run_sample(scored_repository, "painted-classes", tmp_path / "killed", *flags)
    run_sample(scored_repository, "painted-classes", tmp_path / "whole", *flags)
    assert read_files(tmp_path / "killed") == read_files(tmp_path / "whole")
    assert len({line["seed"] for line in read_metadata(tmp_path / "whole")}) == 4000
