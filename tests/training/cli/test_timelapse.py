"""The command `ganymede timelapse`."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.errors import UserError
from tests.support.tiny_recipes import TINY
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.sample_images=128"]
    run = Run(tmp_path_factory.mktemp("runs") / "digits")
    train(load_recipe("gan-mnist", overrides), run)
    return run.folder


def timelapse(*arguments):
    # Errors are raised: `main` prints them.
    return CliRunner().invoke(app, ["timelapse", *map(str, arguments)], catch_exceptions=False)


def test_run_is_shown_in_a_file_with_its_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = timelapse(run, "--fps", "4")
    assert shown.exit_code == 0
    assert "wrote digits.gif: 5 sample sheets from 128 to 640 images" in shown.output
    with Image.open("digits.gif") as film:
        assert film.size[0] >= 448
        assert film.n_frames == 13


def test_json_counts_what_was_left_out(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "samples" / "0000000256.png").unlink()
    (copy / "samples" / "0000000384.png").write_bytes(b"damaged")
    shown = timelapse(copy, "--out", tmp_path / "film.webp", "--duration", "6", "--json")
    document = json.loads(shown.stdout)
    assert (document["sheets"], document["left_out"]) == (3, 1)
    assert document["images"] == [128, 640]
    assert document["seconds"] == 6
    assert "0000000384.png: cannot be read" in shown.stderr
    assert "no sample sheet between 128 and 512 images" in shown.stderr


def test_other_suffixes_and_folders_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"--out: expected a file name that ends in \.mp4"):
        timelapse(run, "--out", tmp_path / "film.avi")
    with pytest.raises(UserError, match="is not a run folder"):
        timelapse(tmp_path, "--out", tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())
