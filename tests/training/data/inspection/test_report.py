import io

import numpy as np
import pytest
from PIL import Image

from training.data.inspection.report import report_on
from training.data.inspection.scan import scan
from training.data.sources import DataError, open_splits


def image_file(seed=0, kind="PNG", size=(32, 32), mode="RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def animation() -> bytes:
    frames = [Image.open(io.BytesIO(image_file(seed))) for seed in (70, 71, 72)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def report(folder, files, split=None):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    sources = open_splits(folder, split)
    return report_on(str(folder), sources, scan(sources))


def test_counts_images_by_class_and_split(tmp_path):
    names = ["train/cat/1", "train/cat/2", "train/dog/3", "val/dog/4", "test/cat/5"]
    result = report(tmp_path, {f"{name}.png": image_file(i) for i, name in enumerate(names)})
    assert result.counts == {
        "train": {"cat": 2, "dog": 1},
        "test": {"cat": 1, "dog": 0},
        "val": {"cat": 0, "dog": 1},
    }
    assert result.summary() == f"{tmp_path}: 5 images in 2 classes, 3 splits"
    assert result.warnings() == [
        "the class dog has no readable image in the split test",
        "the class cat has no readable image in the split val",
    ]


def test_one_split(tmp_path):
    files = {"train/1.png": image_file(1), "val/2.png": image_file(2)}
    assert report(tmp_path, files, "val").counts == {"val": {"": 1}}


def test_data_with_only_a_test_split(tmp_path):
    assert report(tmp_path, {"test/1.png": image_file()}).counts == {"test": {"": 1}}


def test_leaks_and_contradictions_are_named(tmp_path):
    files = {"train/cat/1.png": image_file(1), "train/dog/2.png": image_file(2)}
    files |= {"val/dog/copy.bmp": image_file(1, "BMP"), "val/cat/3.png": image_file(3)}
    result = report(tmp_path, files)
    assert result.to_json()["duplicates_across_splits"] == [["train/cat/1.png", "val/dog/copy.bmp"]]
    assert [line for line in result.warnings() if "same image" in line] == [
        "the same image in several splits: 1, train/cat/1.png = val/dog/copy.bmp",
        "the same image in several classes: 1, train/cat/1.png = val/dog/copy.bmp",
    ]


def test_near_copies_across_splits_are_leaks(tmp_path):
    files = {"train/1.png": image_file(1), "val/1.jpg": image_file(1, "JPEG")}
    assert report(tmp_path, files).to_json()["duplicates_across_splits"] == [
        ["train/1.png", "val/1.jpg"]
    ]


def test_sizes_modes_formats_and_frames(tmp_path):
    files = {"a.png": image_file(1, mode="L"), "b.jpg": image_file(2, "JPEG", (60, 40))}
    files |= {"c.gif": animation(), "d.jpg": image_file(3, "JPEG", mode="CMYK")}
    content = report(tmp_path, files).to_json()
    assert content["modes"] == {"L": 1, "RGB": 1, "P": 1, "CMYK": 1}
    assert content["formats"] == {"JPEG": 2, "PNG": 1, "GIF": 1}
    assert content["sizes"][0] == {"width": 32, "height": 32, "images": 3}
    assert content["several_frames"] == ["c.gif"]


def test_every_file_left_out_has_a_reason(tmp_path):
    files = {"a/1.png": image_file(1), "b/2.png": image_file(2)[:200], "b/3.png": b""}
    result = report(tmp_path, {**files, "b/notes.txt": b"x", "a/.hidden.png": b"x"})
    content = result.to_json()
    assert list(content["corrupt"]) == ["b/2.png", "b/3.png"]
    assert content["corrupt"]["b/3.png"] == "The file is empty."
    assert content["ignored"] == {
        "b/notes.txt": "is not an image",
        "a/.hidden.png": "is a hidden file",
    }
    assert "the class b has no readable image" in result.warnings()


def test_single_colors_are_named(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    result = report(tmp_path, {"1.png": image_file(1), "2.png": out.getvalue()})
    assert result.warnings() == ["2.png has almost a single color"]


def test_without_a_readable_image(tmp_path):
    with pytest.raises(DataError, match=r"none of 1 images .* first: 1.png: The file is not"):
        report(tmp_path, {"1.png": b"no image"})


def test_inferred_ranges_are_named(tmp_path):
    out = io.BytesIO()
    values = np.linspace(-3, 3, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(out, "TIFF")
    result = report(tmp_path, {"1.png": image_file(1), "2.tif": out.getvalue()})
    assert result.to_json()["scaled"] == ["2.tif"]
    assert any(line.startswith("scaled: 2.tif") for line in result.warnings())
