import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.files import CannotWrite
from training.data.inspection.report import report_on
from training.data.inspection.scan import scan
from training.data.preparation.options import PreparationError, PreparationOptions
from training.data.preparation.selection import select
from training.data.preparation.writing import check_out, preparation_lines, write_prepared
from training.data.sources import open_splits


def save(path: Path, seed: int, size=(32, 32), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


def prepare(folder: Path, out: Path, **options) -> dict:
    sources = open_splits(folder)
    report = report_on("data", sources, scan(sources))
    chosen = PreparationOptions(**options)
    selection = select(report, chosen)
    return write_prepared(out, report, selection, chosen, sources, lambda done, total: None)


def read_back(out: Path) -> dict[str, dict[str, int]]:
    return {
        split: dict(Counter(source.class_names[label] for label in source.labels))
        for split, source in open_splits(out).items()
    }


@pytest.fixture
def photos(tmp_path):
    """Two classes of ten images each; image 9 is a copy of image 0, and one file is corrupt."""
    for c, name in enumerate(["a cat", "Train"]):
        for i in range(9):
            save(tmp_path / "photos" / name / f"{i}.png", c * 100 + i, (40, 30))
        save(tmp_path / "photos" / name / "9.bmp", c * 100, (40, 30))
    (tmp_path / "photos" / "a cat" / "x.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_is_read_back_with_classes_and_splits(photos, tmp_path, name):
    out = tmp_path / name
    fractions = {"train": 0.7, "val": 0.3}
    record = prepare(photos, out, size=(16, 16), fractions=fractions, deduplicate="exact")
    assert record["splits"] == read_back(out)
    assert record["splits"] == {"train": {"Train": 6, "a cat": 6}, "val": {"Train": 3, "a cat": 3}}
    sources = open_splits(out)
    assert {source.read(0).size for source in sources.values()} == {(16, 16)}
    assert [list(source.class_names) for source in sources.values()] == [["Train", "a cat"]] * 2
    assert [list(source.notes) for source in sources.values()] == [[], []]
    assert record["dropped"] == {
        f"{name}/9.bmp": f"is an exact duplicate of {name}/0.png" for name in ("Train", "a cat")
    }
    assert list(record["corrupt"]) == ["a cat/x.png"]


def test_classes_without_splits_are_no_splits(photos, tmp_path):
    prepare(photos, tmp_path / "out")
    assert read_back(tmp_path / "out") == {"": {"Train": 10, "a cat": 10}}


def test_labels_are_those_of_nvidias_tool(photos, tmp_path):
    prepare(photos, tmp_path / "out.zip", fractions={"train": 0.5, "val": 0.5})
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        names = {name for name in archive.namelist() if name.startswith("train/")}
        labels = json.loads(archive.read("train/dataset.json"))["labels"]
    images = {name.removeprefix("train/") for name in names if name.endswith(".png")}
    assert {name for name, _ in labels} == images
    assert {name.split("/")[0]: label for name, label in labels} == {"class-Train": 0, "a-cat": 1}


def test_data_without_classes_have_none_when_read_back(tmp_path):
    for i in range(3):
        save(tmp_path / "photos" / f"{i}.png", i)
    prepare(tmp_path / "photos", tmp_path / "out")
    (source,) = open_splits(tmp_path / "out").values()
    assert (source.labels, len(source.names), list(source.notes)) == (None, 3, [])


def test_origin_of_every_image(photos, tmp_path):
    prepare(photos, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    for row in rows:
        prepared, original = (
            Image.open(path)
            for path in (tmp_path / "out" / row["file_name"], photos / row["origin"])
        )
        assert prepared.tobytes() == original.tobytes()
        assert row["class"] == row["origin"].split("/")[0]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_equal_options_give_equal_bytes(photos, tmp_path, name):
    def content(out: Path) -> dict[str, bytes]:
        if out.is_file():
            return {"": out.read_bytes()}
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    options = {"fractions": {"train": 0.5, "test": 0.5}, "max_images": 12}
    outs = [tmp_path / folder / name for folder in ("x", "y", "z")]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        prepare(photos, out, **options, seed=seed)
    assert content(outs[0]) == content(outs[1])
    assert content(outs[0]) != content(outs[2])


def test_duplicates_stay_in_one_split(tmp_path):
    for i in range(20):
        save(tmp_path / "photos" / f"{i}.png", i)
        save(tmp_path / "photos" / f"{i}-copy.bmp", i)
        save(tmp_path / "photos" / f"{i}-small.png", i, (24, 24))
    prepare(
        tmp_path / "photos", tmp_path / "out", fractions={"train": 0.6, "val": 0.2, "test": 0.2}
    )
    sources = open_splits(tmp_path / "out")
    content = report_on("out", sources, scan(sources)).to_json()
    assert content["duplicates_across_splits"] == []
    assert len(content["near_duplicates"]) == 20
    assert {split: each["images"] for split, each in content["splits"].items()} == {
        "train": 36,
        "test": 12,
        "val": 12,
    }


def test_near_duplicates_are_left_out(tmp_path):
    save(tmp_path / "photos/1.png", 1)
    save(tmp_path / "photos/1.jpg", 1, (30, 30))
    save(tmp_path / "photos/2.png", 2)
    record = prepare(tmp_path / "photos", tmp_path / "out", deduplicate="near")
    assert record["dropped"] == {"1.png": "is a near duplicate of 1.jpg"}
    assert preparation_lines(record) == ["left out: 1, 1.png is a near duplicate of 1.jpg"]


def test_enlarged_images_are_counted(tmp_path):
    save(tmp_path / "photos/1.png", 1, (64, 20))
    save(tmp_path / "photos/2.png", 2, (64, 64))
    record = prepare(tmp_path / "photos", tmp_path / "out", size=(32, 32))
    assert record["changes"]["enlarged"] == ["1.png"]
    assert (
        "warning: 1 of 2 images are smaller than the size and were enlarged, which blurs them; "
        "first: 1.png"
    ) in preparation_lines(record)


def test_too_few_images_for_the_splits(tmp_path):
    save(tmp_path / "photos/1.png", 1)
    with pytest.raises(PreparationError, match="the split val would be empty"):
        prepare(tmp_path / "photos", tmp_path / "out", fractions={"train": 0.9, "val": 0.1})


def test_nothing_remains_of_an_interrupted_run(photos, tmp_path):
    sources = open_splits(photos)
    report = report_on("data", sources, scan(sources))
    options = PreparationOptions()

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_prepared(
            tmp_path / "out", report, select(report, options), options, sources, interrupt
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_existing_output_is_refused(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty", photos)
    for out, message in [(photos, "not empty"), (photos / "out", "part of the data")]:
        with pytest.raises(PreparationError, match=message):
            check_out(out, photos)


def test_unwritable_output(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite):
        prepare(photos, tmp_path / "file" / "out")


def test_splits_with_different_classes(tmp_path):
    names = ["train/b", "train/d", "val/a", "val/d", "test/c", "test/b"]
    for seed, name in enumerate(names):
        save(tmp_path / "photos" / name / "1.png", seed)
    record = prepare(tmp_path / "photos", tmp_path / "out")
    expected = {"train": {"b": 1, "d": 1}, "val": {"a": 1, "d": 1}, "test": {"b": 1, "c": 1}}
    assert read_back(tmp_path / "out") == record["splits"] == expected
