"""Jobs of texts: the command writes JSON Lines, the same as over HTTP."""

import functools
import json
import signal
import subprocess
import time

import pytest

from service.offline.job import make_job
from service.offline.rendering import ShardRenderer
from service.offline.verification.verify import Verdict, verify
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.text.records import generate_records, model_vocabulary
from service.runtime.text.requests import text_sources
from tests.support.command import assert_one_line_error, run
from tests.support.output_models import MAX_LENGTH, TEXT_MODEL
from tests.support.sampling import read_files, read_metadata, run_sample
from tests.support.servers import ganymede


@pytest.fixture(scope="module")
def sample(output_repository):
    return functools.partial(run_sample, output_repository, TEXT_MODEL)


@pytest.fixture(scope="module")
def load(output_repository):
    """Load the model with a number of rows per batch."""

    def load(rows=64):
        folder = output_repository / TEXT_MODEL / "1"
        return Model(folder, Provider.CPU, ExecutionPlan(1, 1, rows))

    return load


def read_texts(out):
    """Return the records of all shards, in their order."""
    paths = sorted(out.glob("texts-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_each_line_states_what_reproduces_its_text(sample, load, tmp_path):
    process = sample(tmp_path / "out", "--count", "5", "--seed", "7", "--shard-size", "2")
    assert "wrote 5 texts" in process.stdout
    model = load()
    sources = text_sources(model.manifest, model_vocabulary(model), max_texts=5, n=5, seed=7)
    manifest = model.manifest
    identity = {"model": manifest.name, "version": manifest.version, "digest": model.digest}
    texts = read_texts(tmp_path / "out")
    assert texts == [identity | record for record in generate_records(model, sources)]
    assert len({each["text"] for each in texts}) > 1
    assert [(each["shard"], each["line"]) for each in read_metadata(tmp_path / "out")] == [
        ("texts-00000.jsonl", 1),
        ("texts-00000.jsonl", 2),
        ("texts-00001.jsonl", 1),
        ("texts-00001.jsonl", 2),
        ("texts-00002.jsonl", 1),
    ]
    assert not (tmp_path / "out" / "contact-sheet.png").exists()


def test_texts_equal_those_of_the_service(sample, output_server, tmp_path):
    options = {"temperature": 0.5, "prefix": "ab", "max_length": 7}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    sample(tmp_path / "out", "--seeds", "20-29", *flags)
    with output_server.client() as client:
        body = {"model": TEXT_MODEL, "n": 10, "seed": 20} | options
        served = client.post("/v1/text", json=body).json()
    identity = {name: served[name] for name in ("model", "version", "digest")}
    assert read_texts(tmp_path / "out") == [identity | each for each in served["texts"]]


def test_files_do_not_depend_on_the_number_of_workers(sample, tmp_path):
    for workers in "13":
        flags = ("--count", "60", "--shard-size", "10", "--workers", workers)
        sample(tmp_path / workers, *flags)
    assert read_files(tmp_path / "1") == read_files(tmp_path / "3")


def test_lines_do_not_depend_on_batches(load):
    rendered = []
    for rows in (1, 2, 7, 64):
        model = load(rows)
        job = make_job(model.manifest, count=40, vocabulary=model_vocabulary(model))
        rendered.append([each.file for each in ShardRenderer(model, job).shard(0)])
    assert len(rendered[0]) == 40
    assert all(each == rendered[0] for each in rendered)


def test_prefix_of_words_is_recorded_as_it_is_used(sample, tmp_path):
    sample(tmp_path / "out", "--count", "3", "--prefix", "ab", "--max-length", "1")
    for record in read_texts(tmp_path / "out"):
        assert record["prefix"] == "ab"
        assert record["text"].startswith("ab")
        assert record["tokens"] <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--resize", "8x8"), "--resize: babble returns texts"),
        (("--image", "webp"), "--image: babble returns texts"),
        (("--audio", "wav"), "--audio: babble returns texts"),
        (("--format", "parquet"), "--format: babble returns texts; expected jsonl"),
        (("--format", "folder"), "--format: babble returns texts; expected jsonl"),
        (("--input", "."), "--input: babble generates texts from seeds"),
        (("--classes", "balanced"), "--classes"),
        (("--mix", "coarse"), "--mix"),
        (("--truncation", "0.5"), "--truncation"),
        (("--rank", "0.5"), "--rank"),
        (("--prefix", "é"), "--prefix: the character 'é'"),
        (("--temperature", "nan"), "--temperature"),
        (("--max-length", str(MAX_LENGTH + 1)), "--max-length"),
    ],
)
def test_invalid_options_are_refused(sample, tmp_path, flags, message):
    process = sample(tmp_path / "out", "--count", "2", *flags, code=2)
    assert message in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--temperature", "0.5"), "--temperature: painted returns images"),
        (("--prefix", ""), "--prefix: painted returns images"),
        (("--max-length", "5"), "--max-length: painted returns images"),
        (("--format", "jsonl"), "--format: painted returns images; expected folder"),
    ],
)
def test_options_of_texts_are_refused_for_images(output_repository, tmp_path, flags, message):
    options = ("--count", "2", *flags)
    process = run_sample(output_repository, "painted", tmp_path / "out", *options, code=2)
    assert message in process.stderr


def test_file_is_reproduced(sample, output_repository, tmp_path):
    sample(tmp_path / "out", "--count", "8", "--temperature", "0.7", "--prefix", "ab")
    path = tmp_path / "out" / "texts-00000.jsonl"
    reproduce = functools.partial(run, "reproduce", path, "--models", output_repository)
    done = reproduce("--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert "identical, byte for byte" in done.stdout
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    records = read_texts(tmp_path / "out")
    # The lines of other models do not matter for each other, and white space does not matter.
    path.write_text("\n".join(json.dumps(each, indent=None, sort_keys=True) for each in records))
    assert "equal in every text" in reproduce().stdout
    records[2]["text"] += "a"
    records[5]["seed"] += 1
    path.write_text("\n".join(map(json.dumps, records)))
    changed = reproduce()
    assert changed.returncode == 1
    assert "differs in 2 of 8 texts, the first in line 3" in changed.stdout


def test_file_is_verified(sample, output_repository, tmp_path):
    sample(tmp_path / "out", "--count", "3")
    path = tmp_path / "out" / "texts-00000.jsonl"
    done = verify(path, output_repository)
    assert done.verdict is Verdict.VERIFIED
    assert done.answer == "made by babble@1: the file is equal, byte for byte"
    assert done.as_json()["reproduction"]["texts"] == 3
    text = path.read_text()
    path.write_text(text.replace('"text": "', '"text": "a'))
    changed = verify(path, output_repository)
    assert changed.verdict is Verdict.CONTRADICTED
    assert "3 of 3 texts differ" in changed.answer
    path.write_text(text.replace("babble", "other"))
    assert verify(path, output_repository).verdict is Verdict.UNPROVEN
    path.write_text("{}\n")
    assert verify(path, output_repository).verdict is Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1.5}, "line 1 has invalid metadata: seed"),
        ({"seed": -1}, "line 1 has invalid metadata: seeds"),
        ({"prefix": "é"}, "line 1 has invalid metadata: prefix"),
        ({"max_length": 10**9}, "line 1 has invalid metadata: max_length"),
        ({"temperature": None}, "line 1 has invalid metadata: temperature"),
        ({"model": 7}, "line 1 has no Ganymede metadata"),
        ({"model": "../babble"}, "which is not in"),
        ({"model": "painted"}, "another digest"),
        ({"digest": "sha256:0"}, "another digest"),
    ],
)
def test_invalid_lines_are_named(sample, output_repository, tmp_path, change, reason):
    sample(tmp_path / "out", "--count", "1")
    path = tmp_path / "out" / "texts-00000.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    process = run("reproduce", path, "--models", output_repository)
    assert_one_line_error(process, 2, reason)


@pytest.mark.parametrize("content", ["", "\n", "{", "[]", "1\n", "\udcff"])
def test_other_files_are_not_reproduced(output_repository, tmp_path, content):
    path = tmp_path / "other.jsonl"
    path.write_text(content, errors="surrogateescape")
    process = run("reproduce", path, "--models", output_repository)
    assert_one_line_error(process, 2, "other.jsonl")


@pytest.mark.slow
def test_killed_job_resumes_with_the_same_output(sample, output_repository, tmp_path):
    flags = ("--count", "2000", "--shard-size", "20")
    out = tmp_path / "killed"
    command = ganymede("sample", TEXT_MODEL, "--models", output_repository, "--out", out, *flags)
    shards = out / ".ganymede" / "shards"
    for kill in range(1, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not shards.is_dir() or len(list(shards.iterdir())) < 10 * kill:
            assert process.poll() is None, "the job ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    sample(out, *flags)
    sample(tmp_path / "uninterrupted", *flags)
    assert read_files(out) == read_files(tmp_path / "uninterrupted")
    assert [each["seed"] for each in read_texts(out)] == list(range(2000))
