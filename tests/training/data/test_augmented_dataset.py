"""`ganymede augment` with a small real data set and a small model."""

import json
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

from service.offline.reproduce import reproduce
from tests.support.drawn_models import write_models
from tests.support.servers import ganymede
from training.data.sources import open_source


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three cats, two dogs and one owl: PNG and JPEG, not square."""
    values = np.random.default_rng(0)
    for name, count in {"Cat": 3, "dog": 2, "night_owl": 1}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = values.integers(0, 256, (30, 40, 3), np.uint8)
            suffix = "jpg" if i % 2 else "png"
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.{suffix}")
    return tmp_path / "photos"


@pytest.fixture
def run(models):
    def augment(*flags, model="painted-classes", code=0):
        command = ganymede("augment", *flags, "--models", models, "--model", model)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    return augment


def read_metadata(out):
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_keeps_real_files_unchanged_and_synthetic_ones_reproducible(run, photos, models, tmp_path):
    out = tmp_path / "more"
    result = run(photos, "--per-class", "5", "--out", out)
    assert "6 real and 15 synthetic" in result.stdout
    lines = read_metadata(out)
    assert [line["source"] for line in lines] == ["real"] * 6 + ["synthetic"] * 15
    for line in lines:
        path = out / line["file_name"]
        if line["source"] == "real":
            assert path.read_bytes() == (photos / line["origin"]).read_bytes()
        else:
            assert reproduce(path, models).identical
    assert len({line["seed"] for line in lines if line["source"] == "synthetic"}) == 15
    assert sum(path.is_file() for path in out.rglob("*")) == 6 + 15 + 1


def test_models_folder_from_environment(photos, models, tmp_path):
    command = ganymede("augment", photos, "--model", "painted-classes", "--per-class", "1")
    environment = os.environ | {"GANYMEDE_MODELS": str(models)}
    subprocess.run([*command, "--out", tmp_path / "more"], env=environment, check=True)
    assert len(read_metadata(tmp_path / "more")) == 6 + 3


def test_synthetic_images_have_their_class(run, photos, tmp_path):
    run(photos, "--per-class", "2", "--out", tmp_path / "more", "--seed", "100")
    for line in read_metadata(tmp_path / "more"):
        folder, _, _ = line["file_name"].partition("/")
        if line["source"] == "synthetic":
            text = Image.open(tmp_path / "more" / line["file_name"]).text["ganymede"]
            names = {"Cat": "cat", "dog": "dog", "night_owl": "night owl"}
            assert json.loads(text)["class"] == names[folder]
            assert line["seed"] >= 100


def test_datasets_library_reads_folder(run, photos, tmp_path):
    from datasets import load_dataset

    run(photos, "--per-class", "2", "--out", tmp_path / "more", "--resize", "16")
    dataset = load_dataset(
        "imagefolder", data_dir=str(tmp_path / "more"), split="train", cache_dir=tmp_path / "c"
    )
    assert sorted(dataset["source"]) == ["real"] * 6 + ["synthetic"] * 6
    assert {image.size for image in dataset["image"]} == {(16, 16)}


def test_datasets_library_reads_parquet(run, photos, tmp_path):
    from datasets import load_dataset

    run(photos, "--per-class", "2", "--out", tmp_path / "more", "--format", "parquet")
    files = str(tmp_path / "more" / "*.parquet")
    dataset = load_dataset("parquet", data_files=files, split="train", cache_dir=tmp_path / "c")
    assert dataset.features["label"].names == ["Cat", "dog", "night_owl"]
    assert dataset["source"] == ["real"] * 6 + ["synthetic"] * 6
    assert dataset["label"][6:] == [0, 0, 1, 1, 2, 2]
    assert dataset[0]["image"].size == (40, 30)


def test_maps_classes_with_different_names(run, photos, tmp_path):
    (photos / "dog").rename(photos / "hound")
    error = run(photos, "--per-class", "1", "--out", tmp_path / "more", code=2)
    assert "has no class 'hound'" in error.stderr
    run(photos, "--per-class", "1", "--out", tmp_path / "more", "--classes", "hound=dog")
    assert {line["file_name"].partition("/")[0] for line in read_metadata(tmp_path / "more")} == {
        "Cat",
        "hound",
        "night_owl",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--per-class", "0"], "--per-class"),
        (["--per-class", "1", "--truncation", "9"], "--truncation"),
        (["--per-class", "1", "--classes", "unknown=cat"], "--classes"),
        (["--per-class", "9999999999"], "seeds must be between 0"),
    ],
)
def test_invalid_options_write_nothing(run, photos, tmp_path, flags, message):
    result = run(photos, "--out", tmp_path / "more", *flags, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_keeps_existing_files_and_writes_nothing_on_corrupt_images(run, photos, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "mine.txt").write_text("x")
    assert "not empty" in run(photos, "--per-class", "1", "--out", tmp_path / "more", code=2).stderr
    (photos / "Cat" / "0.png").write_bytes(b"not an image")
    flags = ["--per-class", "1", "--resize", "16", "--out", tmp_path / "new"]
    assert "Cat/0.png cannot be read" in run(photos, *flags, code=2).stderr
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "more"}


def test_rejects_unconditional_model(run, photos, tmp_path):
    flags = ["--per-class", "1", "--out", tmp_path / "more"]
    assert "not class-conditional" in run(photos, *flags, model="painted", code=2).stderr


def test_copies_get_a_suffix_by_content_and_are_checked(run, photos, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    files = sorted(photos.rglob("*.*"))
    table = {"image": [file.read_bytes() for file in files]}
    table["label"] = [file.parent.name for file in files]
    pq.write_table(pa.table(table), tmp_path / "photos.parquet")
    run(tmp_path / "photos.parquet", "--per-class", "1", "--out", tmp_path / "more")
    names = [path.name for path in (tmp_path / "more").rglob("real-*")]
    assert {name.rpartition(".")[2] for name in names} == {"png", "jpg"}
    (photos / "Cat" / "0.png").write_bytes(b"not an image")
    result = run(photos, "--per-class", "1", "--out", tmp_path / "new", code=2)
    assert "Cat/0.png cannot be read" in result.stderr
    assert "ganymede data --out" in result.stderr


def test_names_what_was_left_out_of_the_real_images(run, photos, tmp_path):
    (photos / "Cat" / "notes.txt").write_text("x")
    result = run(photos, "--per-class", "1", "--out", tmp_path / "more")
    assert "ignored: Cat/notes.txt: is not an image" in result.stderr


def test_class_names_that_are_no_folder_names_are_read_back(run, photos, tmp_path):
    # The folder of a class that is named like a split has another name.
    for old, new in [("Cat", "Train"), ("dog", "a dog"), ("night_owl", "a-dog")]:
        (photos / old).rename(photos / new)
    pairs = "Train=cat,a dog=dog,a-dog=night owl"
    run(photos, "--per-class", "1", "--classes", pairs, "--out", tmp_path / "more")
    source = open_source(tmp_path / "more")
    assert list(source.class_names) == ["Train", "a dog", "a-dog"]
    assert np.bincount(source.labels).tolist() == [4, 3, 2]
