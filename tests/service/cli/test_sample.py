"""`ganymede sample` as a user runs it: what it writes, what it refuses, what survives it."""

import io
import json
import random
import signal
import subprocess
import tarfile
import time

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
from tests.service.offline.conftest import files_of, lines_of
from tests.support.drawn_models import write_failing
from tests.support.servers import ganymede


@pytest.mark.parametrize("model", ["painted", "painted-classes", "cut"])
def test_every_picture_is_what_the_service_makes_to_the_last_byte(
    run, drawn_server, tmp_path, model
):
    run(model, tmp_path / "out", "--count", "12", "--seed", "40")
    lines = lines_of(tmp_path / "out")
    assert [line["seed"] for line in lines] == list(range(40, 52))
    with drawn_server.client() as client:
        for line in lines:
            body = {"model": model, "seed": line["seed"], "format": "png"}
            body |= {key: line[key] for key in ("class", "truncation") if key in line}
            answer = client.post("/v1/generate", json=body)
            assert answer.content == (tmp_path / "out" / line["file_name"]).read_bytes()


def test_classes_and_truncation_too(run, drawn_server, tmp_path):
    flags = ["--classes", "dog=1,cat=2", "--truncation", "0.5", "--image", "webp"]
    run("painted-classes", tmp_path / "out", "--count", "9", *flags)
    lines = lines_of(tmp_path / "out")
    assert {line["truncation"] for line in lines} == {0.5}
    assert {line["class"] for line in lines} <= {"dog", "cat"}
    with drawn_server.client() as client:
        for line in lines:
            body = {"model": "painted-classes", "seed": line["seed"], "truncation": 0.5}
            body |= {"class": {"dog": 1, "cat": 2}, "format": "webp"}
            answer = client.post("/v1/generate", json=body)
            assert answer.content == (tmp_path / "out" / line["file_name"]).read_bytes()


@pytest.mark.parametrize(
    "flags", [["--mix", "coarse"], ["--mix", "fine,0", "--classes", "dog"], ["--resize", "24x40"]]
)
def test_any_picture_can_be_made_again_alone(run, drawn_repository, tmp_path, flags):
    run("painted-classes", tmp_path / "out", "--count", "5", *flags)
    for line in lines_of(tmp_path / "out"):
        path = tmp_path / "out" / line["file_name"]
        assert reproduce(path, drawn_repository).identical
        if "--resize" in flags:
            assert Image.open(path).size == (24, 40)


def test_mixed_styles_are_those_of_two_seeds(run, drawn_server, tmp_path):
    run("painted", tmp_path / "out", "--count", "6", "--mix", "coarse")
    (first, *_) = lines_of(tmp_path / "out")
    with drawn_server.client() as client:
        body = {"model": "painted", "rows": [first["row"]["seed"]], "layers": "coarse"}
        body |= {"columns": [first["column"]["seed"]], "format": "npy"}
        (mixed,) = np.load(io.BytesIO(client.post("/v1/mix-styles", json=body).content))
    made = np.asarray(Image.open(tmp_path / "out" / first["file_name"]))
    np.testing.assert_array_equal(made, mixed)


def test_a_folder_is_what_imagefolder_and_datasets_read(run, tmp_path):
    from datasets import load_dataset

    run("painted-classes", tmp_path / "out", "--count", "12", "--classes", "balanced")
    out = tmp_path / "out"
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["cat", "dog", "night-owl"]
    found = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=tmp_path / "c")
    assert len(found) == 12
    assert {row["seed"] for row in found} == set(range(12))


def test_shards_are_what_webdataset_reads(run, tmp_path):
    import webdataset

    flags = ["--count", "250", "--shard-size", "100", "--format", "webdataset"]
    run("painted-classes", tmp_path / "out", *flags)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(shards) == 3
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [row["json"]["seed"] for row in rows] == list(range(250))
    assert [row["__key__"] for row in rows] == [f"seed-{seed:03}" for seed in range(250)]
    assert {row["png"].dtype for row in rows} == {np.dtype(np.uint8)}
    names = {row["json"]["class_name"]: row["cls"] for row in rows}
    assert len(names) == len(set(names.values()))


def test_tars_are_whole_for_other_readers(run, tmp_path):
    run("painted", tmp_path / "out", "--count", "30", "--format", "webdataset")
    lines = lines_of(tmp_path / "out")
    for line in lines:
        with tarfile.open(tmp_path / "out" / line["shard"]) as tar:
            file = tar.extractfile(line["member"]).read()
            assert json.loads(Image.open(io.BytesIO(file)).text["ganymede"])["seed"] == line["seed"]
    listed = subprocess.run(
        ["tar", "tf", tmp_path / "out" / lines[0]["shard"]], capture_output=True, check=True
    )
    assert not listed.stderr


def test_parquet_is_what_datasets_reads(run, tmp_path):
    from datasets import load_dataset

    flags = ["--count", "250", "--shard-size", "120", "--format", "parquet"]
    run("painted-classes", tmp_path / "out", *flags)
    files = sorted(map(str, (tmp_path / "out").glob("*.parquet")))
    found = load_dataset("parquet", data_files=files, split="train", cache_dir=tmp_path / "c")
    assert found["seed"] == list(range(250))
    assert found.features["label"].names == ["cat", "dog", "night owl"]
    assert found[3]["image"].size == (24, 24)


def test_what_is_complete_is_left_alone(run, tmp_path):
    run("painted", tmp_path / "out", "--count", "20")
    before = files_of(tmp_path / "out")
    summary = (tmp_path / "out" / "summary.json").read_bytes()
    assert "complete already" in run("painted", tmp_path / "out", "--count", "20").stdout
    assert files_of(tmp_path / "out") == before
    assert (tmp_path / "out" / "summary.json").read_bytes() == summary


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--count", "0"], "--count"),
        ([], "--count"),
        (["--count", "3", "--mix", "nowhere"], "--mix"),
        (["--count", "3", "--classes", "cat"], "not class-conditional"),
        (["--count", "1000000000"], "has room for"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, flags, said):
    done = run("painted", tmp_path / "out", *flags, code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_said(run, tmp_path):
    assert "there are: " in run("nobody", tmp_path / "out", "--count", "1", code=2).stderr
    assert "no version '9'" in run("painted@9", tmp_path / "out", "--count", "1", code=2).stderr


def test_a_folder_with_another_job_or_other_things_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    run("painted", out, "--count", "20")
    before = files_of(out)
    assert "another job: its count" in run("painted", out, "--count", "21", code=2).stderr
    assert files_of(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in run("painted", tmp_path / "mine", "--count", "1", code=2).stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    assert "no folder" in run("painted", tmp_path / "file", "--count", "1", code=2).stderr
    refused = run("painted", "/proc/nowhere", "--count", "1", code=2)
    assert len(refused.stderr.splitlines()) == 1


def test_an_unknown_kind_of_url_is_one_line(run, tmp_path):
    done = run("painted", "nothing://there", "--count", "1", code=2)
    assert len(done.stderr.splitlines()) == 1


def test_where_nothing_can_be_written_a_job_is_refused(drawn_repository, tmp_path):
    out = tmp_path / "out"
    command = ganymede("sample", "painted", "--models", drawn_repository, "--out", out)
    # Root may write anywhere, but no file may grow here.
    limited = ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "bash", *command]
    done = subprocess.run(
        [*limited, "--count", "3"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_url_of_this_machine_is_a_folder(run, tmp_path):
    run("painted", f"file://{tmp_path}/out", "--count", "5")
    assert len(lines_of(tmp_path / "out")) == 5


@pytest.mark.parametrize("layout", Layout)
def test_a_store_of_objects_holds_what_a_folder_does(drawn_repository, tmp_path, layout):
    """As `s3://` has it: no folders, no renaming. A job that was broken off there goes on."""
    model = Model(drawn_repository / "painted-classes" / "1", Provider.CPU, ExecutionPlan(1, 1, 8))
    job = make_job(model.manifest, count=30, classes="balanced", layout=layout, shard_size=10)
    for url, shards in ((str(tmp_path / "out"), [0, 1, 2]), (f"memory://{layout}/out", [1])):
        store = Store(url)
        builder, ledger = ShardBuilder(model, job, store), Ledger(store, job)
        ledger.begin()
        local.run(builder, shards, 2, lambda *_: None, lambda: False)
        todo, records = remaining_shards(job, ledger)
        assert todo == sorted({0, 1, 2} - set(shards))
        records += local.run(builder, todo, 2, lambda *_: None, lambda: False)
        assert not ledger.is_complete()
        write_summary(builder.renderer, job, ledger, records, 1.0)
        assert ledger.is_complete()
    files = files_of(tmp_path / "out")
    objects = fsspec.filesystem("memory")
    there = {path.partition("/out/")[2]: path for path in objects.find(f"/{layout}/out")}
    assert there.keys() == files.keys() | {"summary.json"}
    assert {name: objects.cat_file(there[name]) for name in files} == files


def test_events_tell_a_scheduler_how_it_goes(run, tmp_path):
    done = run("painted", tmp_path / "out", "--count", "40", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "start"
    assert events[0]["images"] == 40
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["images"] == progress[-1]["of"] == 40
    assert events[-1]["event"] == "done"
    assert events[-1]["images"] == 40
    assert events[-1]["failed"] == []


def test_pictures_that_cannot_be_made_are_told_and_cost_no_others(tmp_path, drawn_repository):
    models = tmp_path / "models"
    write_failing(models / "failing" / "1")
    command = ganymede("sample", "failing", "--models", models, "--out", tmp_path / "out")
    done = subprocess.run(
        [*command, "--count", "40"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    # The graph fails for a latent whose first number is below 0.
    below = [s for s in range(40) if np.random.RandomState(s).randn(1, 8)[0, 0] < 0]
    assert summary["failed"] == below
    assert [line["seed"] for line in lines_of(tmp_path / "out")] == sorted(
        set(range(40)) - set(below)
    )
    assert "could not be made" in done.stdout


def started(drawn_repository, out, *flags):
    command = ganymede("sample", "painted-classes", "--models", drawn_repository, "--out", out)
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("layout", "kills"), [("folder", 20), ("webdataset", 5), ("parquet", 5)])
def test_killed_at_any_point_it_goes_on_and_ends_as_if_unbroken(
    run, drawn_repository, tmp_path, layout, kills
):
    flags = ["--count", "4000", "--shard-size", "25", "--format", layout, "--classes", "balanced"]
    run("painted-classes", tmp_path / "whole", *flags)
    points = random.Random()
    # Some while it starts, and most of them when it has written its next shards.
    early = kills // 5
    waits = points.sample([0.5] * early + [60] * (kills - early), kills)
    out, done_before = tmp_path / "broken", []
    for wait in waits:
        process = started(drawn_repository, out, *flags)
        records = out / ".ganymede" / "shards"
        before = len(list(records.iterdir())) if records.is_dir() else 0
        until = time.monotonic() + wait
        while time.monotonic() < until and process.poll() is None:
            if records.is_dir() and len(list(records.iterdir())) > before:
                time.sleep(points.uniform(0.0, 0.02))
                break
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        done_before.append(before)
    assert len(set(done_before)) > kills // 2
    run("painted-classes", out, *flags)
    assert files_of(out) == files_of(tmp_path / "whole")
    assert sorted(line["seed"] for line in lines_of(out)) == list(range(4000))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_its_own_code_and_nothing_half_written(
    drawn_repository, run, tmp_path, number
):
    flags = ["--count", "200000", "--shard-size", "50", "--format", "webdataset"]
    process = started(drawn_repository, tmp_path / "out", *flags)
    records = tmp_path / "out" / ".ganymede" / "shards"
    until = time.monotonic() + 60
    while not (records.is_dir() and any(records.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command goes on" in said
    assert not list((tmp_path / "out" / ".ganymede" / "writing").glob("*"))
    done = len(list(records.iterdir()))
    assert len(list((tmp_path / "out").glob("*.tar"))) == done


def test_two_at_a_time_do_not_mix(drawn_repository, run, tmp_path):
    flags = ["--count", "200000", "--shard-size", "50"]
    process = started(drawn_repository, tmp_path / "out", *flags)
    until = time.monotonic() + 60
    while not (tmp_path / "out" / ".ganymede" / "job.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    done = run("painted-classes", tmp_path / "out", *flags, code=2)
    assert "another process is at work" in done.stderr
    process.terminate()
    process.communicate(timeout=60)


def test_a_disk_that_fills_loses_nothing(run, drawn_repository, tmp_path):
    """A file of the output that cannot grow, as on a full disk: then it is emptied."""
    out = tmp_path / "out"
    flags = ["--count", "2000", "--shard-size", "500", "--format", "webdataset"]
    command = ganymede("sample", "painted-classes", "--models", drawn_repository, "--out", out)
    limited = ["bash", "-c", 'ulimit -f 600; trap "" XFSZ; exec "$@"', "bash", *command, *flags]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "the same command goes on" in done.stderr
    assert not list(out.glob("*.tar"))
    run("painted-classes", out, *flags)
    run("painted-classes", tmp_path / "whole", *flags)
    assert files_of(out) == files_of(tmp_path / "whole")
