import json

import pytest
from PIL import Image

from tests.support.command import assert_one_line_error, run
from tests.support.images import write_colored


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))


def test_reports_as_text_and_json(tmp_path, env):
    folder = write_colored(tmp_path / "data", classes=2, count=10)
    (folder / "notes.txt").write_text("x")
    before = sorted(folder.rglob("*"))
    result = run("data", folder)
    assert (result.returncode, result.stderr.strip()) == (0, "")
    assert "10 images in 2 classes" in result.stdout
    assert "warning: ignored: notes.txt: is not an image" in result.stdout
    content = json.loads(run("data", folder, "--json").stdout)
    assert content["splits"] == {"all": {"images": 10, "by_class": {"0": 5, "1": 5}}}
    assert Image.open(content["sheet"]).format == "PNG"
    assert sorted(folder.rglob("*")) == before


def test_selects_classes_and_writes_the_sheet(tmp_path, env):
    folder = write_colored(tmp_path / "data", classes=3, count=9)
    arguments = ["data", folder, "--classes", "2,0", "--sheet", tmp_path / "s.png", "--json"]
    content = json.loads(run(*arguments).stdout)
    assert content["classes"] == ["2", "0"]
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no such file or folder"),
        (["data", "--split", "val"], "has no splits"),
        (["data", "--classes", "x"], "no class folder 'x'"),
        (["data", "--sheet", "data/x.png"], "would be part of the data"),
        (["data", "--out", "x.tar"], "use .zip, or a folder"),
    ],
)
def test_bad_input(tmp_path, env, arguments, message):
    write_colored(tmp_path / "data", classes=2, count=4)
    assert_one_line_error(run("data", *arguments, cwd=tmp_path), 2, message)


def test_prepares_a_data_set(tmp_path, env):
    folder = write_colored(tmp_path / "data", classes=2, count=20)
    out = tmp_path / "prepared.zip"
    flags = ["--resolution", "16", "--split", "train=0.8,val=0.2", "--format", "webp-lossless"]
    result = run("data", folder, "--out", tmp_path / "prepared", "--archive", "zip", *flags)
    assert result.returncode == 0, result.stderr
    assert f"{out}: 20 images (train 16, val 4)" in result.stdout
    content = json.loads(run("data", out, "--json").stdout)
    assert content["splits"]["val"] == {"images": 4, "by_class": {"0": 2, "1": 2}}
    assert content["sizes"] == [{"width": 16, "height": 16, "images": 20}]
    assert_one_line_error(run("data", folder, "--out", out), 2, "already exists and is not empty")


def test_options_of_the_output_need_one(tmp_path, env):
    write_colored(tmp_path, classes=2, count=4)
    assert_one_line_error(run("data", tmp_path, "--resolution", "16"), 2, "need --out")
