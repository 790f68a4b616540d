import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.support.sampling import run_sample
from training.data.sources import DataError, open_source, open_splits


def image_file(kind="PNG", color=(255, 0, 0), size=(10, 12)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def by_class(source) -> dict[str, list[str]]:
    result = {name: [] for name in source.class_names}
    for name, label in zip(source.names, source.labels, strict=True):
        result[source.class_names[label]].append(name)
    return result


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("x.jfif", "JPEG"), ("x.avif", "AVIF"), ("x.ppm", "PPM"), ("x.GIF", "GIF")),
        *(("x.tif", "TIFF"), ("x.bmp", "BMP"), ("x.jp2", "JPEG2000"), ("x.tga", "TGA")),
        # Recognized by content: a wrong suffix, an unknown one, and none.
        *(("x.dat", "PNG"), ("x", "JPEG"), ("x.webp", "PNG"), ("x.image", "AVIF")),
    ],
)
def test_reads_every_format_of_pillow(tmp_path, name, kind):
    source = open_source(write(tmp_path, {name: image_file(kind)}))
    assert list(source.names) == [name]
    assert source.read(0).size == (10, 12)


def test_other_files_are_ignored_with_the_reason(tmp_path):
    files = {"1.png": image_file(), "notes.txt": b"x", "data.bin": bytes(99), ".a/2.png": b"x"}
    files["@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg"] = image_file("JPEG")
    source = open_source(write(tmp_path, files))
    assert list(source.names) == ["1.png"]
    assert source.ignored == {
        "notes.txt": "is not an image",
        "data.bin": "is not an image",
        ".a/2.png": "is a hidden file",
        "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg": "is a hidden file",
    }


def test_error_without_images_counts_what_was_ignored(tmp_path):
    with pytest.raises(DataError, match=r"contains no images \(2: is not an image\)"):
        open_source(write(tmp_path, {"a.txt": b"x", "b.txt": b"y"}))


@pytest.mark.parametrize("root", ["", "top/"])
def test_reads_labels_of_dataset_json(tmp_path, root):
    files = {f"{root}0000{i}/img{i}.png": image_file() for i in range(4)}
    labels = [[f"0000{i}/img{i}.png", i % 3] for i in range(4)]
    files[f"{root}dataset.json"] = json.dumps({"labels": labels}).encode()
    source = open_source(write(tmp_path, files))
    assert source.class_names == ["0", "1", "2"]
    assert source.labels == [0, 1, 2, 0]


def test_dataset_json_without_labels_leaves_no_classes(tmp_path):
    files = {"00000/1.png": image_file(), "dataset.json": b'{"labels": null}'}
    assert open_source(write(tmp_path, files), classes=()).labels is None


def test_dataset_json_with_a_missing_label_is_noted(tmp_path):
    files = {"0/1.png": image_file(), "0/2.png": image_file()}
    files["dataset.json"] = json.dumps({"labels": [["0/1.png", 3]]}).encode()
    source = open_source(write(tmp_path, files))
    assert source.labels is None
    assert source.notes == ["no classes, because 0/2.png has no class in dataset.json"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"labels": [["a", "x"]]}', b'{"labels": 3}'])
def test_rejects_damaged_dataset_json(tmp_path, content):
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_source(write(tmp_path, {"1.png": image_file(), "dataset.json": content}))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_reads_classes_of_metadata_files(tmp_path, suffix):
    rows = [{"file_name": "1.png", "class": "red"}, {"file_name": "2.png", "class": "blue"}]
    text = (
        "\n".join(map(json.dumps, rows))
        if suffix == "jsonl"
        else "file_name,class\n1.png,red\n2.png,blue\n"
    )
    files = {"1.png": image_file(), "2.png": image_file(), f"metadata.{suffix}": text.encode()}
    assert by_class(open_source(write(tmp_path, files))) == {"blue": ["2.png"], "red": ["1.png"]}


def test_reads_webdataset_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as archive:
            for i in range(3):
                for suffix, data in [("jpg", image_file("JPEG")), ("cls", str(i).encode())]:
                    info = tarfile.TarInfo(f"{shard}{i:03}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    source = open_source(tmp_path)
    assert len(source.names) == 6
    assert source.class_names == ["0", "1", "2"]
    assert source.labels == [0, 1, 2, 0, 1, 2]
    assert source.ignored == {}
    assert open_source(tmp_path / "shard-1.tar").labels == [0, 1, 2]


@pytest.mark.parametrize("layout", ["folder", "webdataset", "parquet"])
def test_reads_what_sample_writes(drawn_repository, tmp_path, layout):
    flags = ["--count", "12", "--format", layout, "--classes", "balanced"]
    run_sample(drawn_repository, "painted-classes", tmp_path / "out", *flags)
    source = open_source(tmp_path / "out")
    assert len(source.names) == 12
    assert sorted(np.bincount(source.labels)) == [12 // len(source.class_names)] * len(
        source.class_names
    )
    assert {source.read(i).size for i in range(12)} == {source.read(0).size}
    assert not [name for name in source.names if "contact" in name]


def test_order_and_classes_are_equal_in_folder_and_archive(tmp_path):
    files = {f"{name}/{i}.png": image_file() for name in ("b", "a") for i in range(3)}
    folder = write(tmp_path / "set", files)
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", folder)
    assert by_class(open_source(folder)) == by_class(open_source(archive))


def write_archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_archives_with_names_of_splits(tmp_path):
    for split in ("train", "test"):
        # Some archives repeat the name of the split inside.
        inside = {"train": "train/", "test": ""}[split]
        files = {f"{inside}{name}/1.png": image_file() for name in ("cat", "dog")}
        write_archive(tmp_path / f"{split}.zip", files)
    sources = open_splits(tmp_path)
    assert {split: by_class(source) for split, source in sources.items()} == {
        "train": {"cat": ["train.zip/train/cat/1.png"], "dog": ["train.zip/train/dog/1.png"]},
        "test": {"cat": ["test.zip/cat/1.png"], "dog": ["test.zip/dog/1.png"]},
    }


def test_names_of_archives_are_no_classes(tmp_path):
    for name in ("cat", "dog"):
        write_archive(tmp_path / f"{name}.zip", {f"{i}.png": image_file() for i in range(2)})
    source = open_source(tmp_path)
    assert (source.labels, len(source.names)) == (None, 4)
    (note,) = source.notes
    assert note.startswith("no classes: the names of archives (cat.zip, dog.zip) are none")


def test_shards_without_classes_need_no_note(tmp_path):
    for number in range(2):
        write_archive(tmp_path / f"shard-{number}.zip", {f"{number}.png": image_file()})
    assert open_source(tmp_path).notes == []


def test_folders_without_images_are_named(tmp_path):
    files = {"a/1.png": image_file(), "b/2.png": image_file(), "c/x/notes.txt": b"x"}
    assert open_source(write(tmp_path, files)).notes == ["the folder c contains no image"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.zip", b"", "is empty"),
        ("x.zip", b"PK\3\4 cut off", "is damaged"),
        ("x.npz", b"x", "holds NumPy arrays"),
        ("x.pkl", b"x", "is neither a folder nor a data file"),
    ],
)
def test_files_that_are_no_data_set(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path, {name: content}) / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<svg xmlns='x'/>", "is in SVG format, which cannot be decoded here"),
        (b"%PDF-1.4", "is a PDF document, not an image"),
        (b"version https://git-lfs.github.com", "is a Git LFS pointer instead of the content"),
    ],
)
def test_ignored_files_are_named_by_their_content(tmp_path, content, reason):
    source = open_source(write(tmp_path, {"1.png": image_file(), "x.bin": content}))
    assert source.ignored["x.bin"].startswith(reason)
