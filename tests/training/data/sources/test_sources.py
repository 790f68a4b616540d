"""Image sources: folders, ZIP archives, IDX files and Hugging Face data sets."""

import gzip
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.decoding import ImageDecodeError
from tests.support.images import drawn_digits
from training.data.sources import DataError, open_source


def noise_png() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def image_file(color=(255, 0, 0), kind="PNG", size=(10, 12)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


TREE = {
    "cat/1.png": image_file(),
    "cat/deep/2.jpg": image_file(kind="JPEG"),
    "dog/1.webp": image_file(kind="WEBP"),
    "notes.txt": b"not an image",
}
SPLIT_TREE = {f"train/{name}": data for name, data in TREE.items()} | {
    "val/cat/9.png": image_file((0, 255, 0)),
}


def write_folder(path, tree):
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path, tree):
    path = path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=[write_folder, write_zip], ids=["folder", "zip"])
def write(request):
    return request.param


def test_subfolders_are_classes(tmp_path, write):
    source = open_source(write(tmp_path, TREE), "train")
    assert list(source.names) == ["cat/1.png", "cat/deep/2.jpg", "dog/1.webp"]
    assert source.class_names == ["cat", "dog"]
    assert source.labels == [0, 0, 1]
    assert source.read(0).getpixel((0, 0)) == (255, 0, 0)


def test_finds_split_folders(tmp_path, write):
    location = write(tmp_path, SPLIT_TREE)
    assert len(open_source(location, "train").names) == 3
    held_out = open_source(location, "test")
    assert (held_out.names, held_out.class_names) == (["val/cat/9.png"], ["cat", "dog"])
    with pytest.raises(DataError, match="no split 'extra'; available: train, val"):
        open_source(location, "extra")


def test_no_classes_without_subfolders(tmp_path, write):
    source = open_source(write(tmp_path, {"1.png": image_file(), "2.png": image_file()}), "train")
    assert source.labels is None
    assert list(source.class_names) == []


def test_skips_root_folder_and_hidden_files(tmp_path, write):
    tree = {f"animals/{name}": data for name, data in SPLIT_TREE.items()}
    tree |= {"__MACOSX/animals/train/cat/._1.png": b"x", "animals/train/.hidden/1.png": b"x"}
    location = write(tmp_path, tree)
    source = open_source(location, "train")
    assert source.class_names == ["cat", "dog"]
    assert len(source.names) == 3
    assert open_source(location, "test").class_names == ["cat", "dog"]


def test_single_folder_is_one_class(tmp_path, write):
    source = open_source(
        write(tmp_path, {"cat/1.png": image_file(), "cat/2.png": image_file()}), "train"
    )
    assert source.class_names == ["cat"]


def test_corrupt_images_raise_only_when_read(tmp_path, write):
    tree = {
        "a/1.png": noise_png(),
        "a/2.png": noise_png()[:900],
        "a/3.png": b"",
        "a/4.png": b"x" * 99,
    }
    source = open_source(write(tmp_path, tree), "train")
    source.read(0)
    for index in (1, 2, 3):
        with pytest.raises(ImageDecodeError):
            source.read(index)


def test_rejects_source_without_images(tmp_path, write):
    with pytest.raises(DataError, match="contains no images"):
        open_source(write(tmp_path, {"notes.txt": b"x"}), "train")


def test_rejects_missing_path_and_other_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "nope", "train")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor a data file"):
        open_source(tmp_path / "file", "train")


def test_reads_idx_files(digits):
    images, labels = drawn_digits(600)
    source = open_source(digits, "train")
    assert source.class_names == [str(i) for i in range(10)]
    assert source.labels == labels.tolist()
    np.testing.assert_array_equal(np.asarray(source.read(599)), images[599])


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:10],
        lambda raw: b"\0\0\x0d\x03" + raw[4:],
        lambda raw: b"",
        lambda raw: raw[:4] + bytes(4) + raw[8:16],
    ],
)
def test_rejects_corrupt_idx_file(tmp_path, digits, corrupt):
    name = "train-images-idx3-ubyte.gz"
    raw = gzip.decompress((digits / name).read_bytes())
    (tmp_path / name).write_bytes(gzip.compress(corrupt(raw)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(
        (digits / "train-labels-idx1-ubyte").read_bytes()
    )
    with pytest.raises(DataError, match=f"{name}|contains no images") as error:
        open_source(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_rejects_corrupt_gzip_file(tmp_path, digits):
    name = "train-images-idx3-ubyte.gz"
    raw = (digits / name).read_bytes()
    for corrupted in (raw[:500], raw[:100] + bytes(200) + raw[300:]):
        (tmp_path / name).write_bytes(corrupted)
        with pytest.raises(DataError, match="corrupt"):
            open_source(tmp_path, "train")


def hugging_face_dataset(count=6):
    import datasets

    images, labels = drawn_digits(count)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[f"c{i}" for i in range(10)]),
        }
    )
    rows = {"image": [Image.fromarray(p) for p in images], "label": labels.tolist()}
    return datasets.Dataset.from_dict(rows, features=features), images


@pytest.mark.parametrize("layout", ["saved", "saved splits", "parquet"])
def test_reads_hugging_face_datasets_from_disk(tmp_path, layout):
    import datasets

    rows, images = hugging_face_dataset()
    match layout:
        case "saved":
            rows.save_to_disk(tmp_path / "set")
        case "saved splits":
            datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
        case "parquet":
            (tmp_path / "set").mkdir()
            rows.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    source = open_source(tmp_path / "set", "train")
    assert len(source.names) == 6
    assert source.labels == list(range(6))
    assert list(source.class_names) == [f"c{i}" for i in range(10)]
    np.testing.assert_array_equal(np.asarray(source.read(3).convert("L")), images[3])


def test_unreachable_hub_error_is_one_line():
    with pytest.raises(DataError, match="hub:owner/missing cannot be loaded") as error:
        open_source("hub:owner/missing", "train")
    assert "\n" not in str(error.value)


def test_rejects_dataset_without_image_column(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="no image column; its columns are: text"):
        open_source(tmp_path / "set", "train")
