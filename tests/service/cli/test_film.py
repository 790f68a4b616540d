"""`ganymede sample --input FILM` as a user runs it."""

import json
import signal
import subprocess
import time

import pytest

from tests.support.films import content_of, make_film, regular
from tests.support.image_to_image_models import write_translators
from tests.support.sampling import run_sample
from tests.support.servers import ganymede


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_translators(folder)
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return make_film(path, regular(60), audio="aac")


def test_writes_a_film_and_says_so(models, film, tmp_path):
    out = tmp_path / "out.webm"
    flags = ["--input", str(film), "--json", "--quality", "60"]
    events = [
        json.loads(line) for line in run_sample(models, "larger", out, *flags).stdout.splitlines()
    ]
    assert [event["event"] for event in events][:1] == ["start"]
    assert (events[-1]["event"], events[-1]["frames"]) == ("done", 60)
    assert events[-1]["notes"] == ["sound encoded again: aac as libopus"]
    progress = [event for event in events if event["event"] == "progress"]
    assert (progress[-1]["frames"], progress[-1]["of"], progress[-1]["eta_s"]) == (60, 60, 0)
    content = content_of(out)
    assert content.frames.shape == (60, 96, 128, 3)
    assert content.onsets
    again = run_sample(models, "larger", out, "--input", str(film), "--quality", "60")
    assert "is already complete" in again.stdout
    other = run_sample(models, "tinting", out, "--input", str(film), code=2)
    assert "exists; choose another name" in other.stderr


@pytest.mark.slow
def test_killed_command_resumes_to_the_same_film(models, tmp_path):
    film = make_film(tmp_path / "film.mp4", regular(400), audio="aac", size=(320, 240))
    flags = ["--input", str(film), "--workers", "1"]
    run_sample(models, "larger", tmp_path / "whole.mp4", *flags)
    out = tmp_path / "out.mp4"
    command = ganymede("sample", "larger", "--models", models, "--out", out, *flags)
    for number in (signal.SIGKILL, signal.SIGTERM):
        parts = tmp_path / "out.mp4.parts"
        before = len(list(parts.glob("*.mkv")))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(list(parts.glob("*.mkv"))) == before and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=100)
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
        assert not out.exists()
        if number == signal.SIGTERM:
            assert b"run the same command to resume" in stderr
    run_sample(models, "larger", out, *flags)
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize(
    ("model", "out", "flags", "expected"),
    [
        ("larger", "out.avi", [], "--out: a film needs a file name that ends in .mp4, .webm, .mkv"),
        ("larger", "out.mp4", ["--count", "3"], "--count: does not apply to a film"),
        ("larger", "out.mp4", ["--directions", "a=1"], "--directions: does not apply to a film"),
        ("filled", "out.mp4", [], "--mask: missing: filled needs a mask or boxes"),
        ("fixed", "out.mp4", ["--boxes", "0,0,8,8"], "--boxes: fixed takes no mask"),
    ],
)
def test_bad_options_are_one_line(models, film, tmp_path, model, out, flags, expected):
    flags = ["--input", str(film), *flags]
    process = run_sample(models, model, tmp_path / out, *flags, code=2)
    assert expected in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_films_are_one_line(models, tmp_path):
    bad = tmp_path / "film.mp4"
    bad.write_text("this is not a film")
    process = run_sample(models, "larger", tmp_path / "out.mp4", "--input", str(bad), code=2)
    assert process.stderr.startswith("Error: ")
    assert "film.mp4 is not a film" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    process = run_sample(models, "larger", tmp_path / "folder", "--input", str(bad), code=2)
    assert "--out: a film needs a file name" in process.stderr
