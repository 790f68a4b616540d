"""Classes from dataset.json, tables and WebDataset's files."""

import io
import json
import tarfile

import pytest
from PIL import Image

from training.data.sources import DataError, open_source, open_splits


def image_file(color=(255, 0, 0)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(out, "PNG")
    return out.getvalue()


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def images(*names) -> dict[str, bytes]:
    return dict.fromkeys(names, image_file())


def classes_of(source) -> dict[str, str]:
    return {
        name: source.class_names[label]
        for name, label in zip(source.names, source.labels, strict=True)
    }


def write_shard(path, members) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("labels", ["null", "[]"])
def test_dataset_json_without_labels_means_no_classes(tmp_path, labels):
    files = images("00000/1.png", "00001/2.png") | {"dataset.json": f'{{"labels": {labels}}}'}
    source = open_source(write(tmp_path, files))
    assert (source.labels, list(source.class_names), list(source.notes)) == (None, [], [])


def test_other_dataset_json_is_named(tmp_path):
    files = images("a/1.png", "b/2.png") | {"dataset.json": '{"title": "mine"}'}
    source = open_source(write(tmp_path, files))
    assert source.class_names == ["a", "b"]
    assert source.notes == ["dataset.json has no labels in the format of NVIDIA's dataset tool"]


def test_one_hot_labels(tmp_path):
    labels = [["1.png", [0, 0, 1]], ["2.png", [1.0, 0.0, 0.0]]]
    files = images("1.png", "2.png") | {"dataset.json": json.dumps({"labels": labels})}
    assert classes_of(open_source(write(tmp_path, files))) == {"1.png": "2", "2.png": "0"}


def test_vectors_are_no_classes(tmp_path):
    labels = [["a/1.png", [0.2, 0.8]], ["b/2.png", [1, 0]]]
    files = images("a/1.png", "b/2.png") | {"dataset.json": json.dumps({"labels": labels})}
    source = open_source(write(tmp_path, files))
    assert source.labels is None
    assert source.notes == ["no classes, because dataset.json holds vectors, not classes"]


def test_labels_of_missing_images_are_named(tmp_path):
    labels = [["1.png", 0], ["2.png", 1], ["3.png", 1]]
    files = images("1.png") | {"dataset.json": json.dumps({"labels": labels})}
    source = open_source(write(tmp_path, files))
    assert classes_of(source) == {"1.png": "0"}
    assert source.notes == ["dataset.json name images that do not exist: 2.png and 1 more"]


def test_large_numbers_are_names(tmp_path):
    files = images("1.png", "2.png")
    files["labels.csv"] = "file_name,label\n1.png,4000000000\n2.png,7\n"
    source = open_source(write(tmp_path, files))
    assert classes_of(source) == {"1.png": "4000000000", "2.png": "7"}
    assert source.class_names == ["7", "4000000000"]


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_damaged_tables_are_named(tmp_path, text):
    with pytest.raises(DataError, match=r"metadata.jsonl cannot be read"):
        open_source(write(tmp_path, images("1.png") | {"metadata.jsonl": text}))


def test_tables_of_excel(tmp_path):
    text = "file_name\tlabel\n1.png\tgrün\n"
    source = open_source(write(tmp_path, images("1.png") | {"labels.csv": text.encode("utf-16")}))
    assert classes_of(source) == {"1.png": "grün"}


def test_keys_with_several_images_are_named(tmp_path):
    members = {"0.img.png": image_file(), "0.seg.png": image_file(), "0.cls": b"1"}
    write_shard(tmp_path / "x.tar", members)
    assert open_source(tmp_path / "x.tar").notes == [
        "0.img.png and 0.seg.png have one key and are all read"
    ]


def test_splits_with_a_dataset_json_each(tmp_path):
    files = images("train/x/1.png", "val/y/2.png")
    for split, name in [("train", "x/1.png"), ("val", "y/2.png")]:
        document = {"labels": [[name, 1]], "class_names": ["cat", "dog"]}
        files[f"{split}/dataset.json"] = json.dumps(document)
    sources = open_splits(write(tmp_path, files))
    assert {split: classes_of(source) for split, source in sources.items()} == {
        "train": {"train/x/1.png": "dog"},
        "val": {"val/y/2.png": "dog"},
    }


def test_an_unlabeled_split_does_not_matter_to_the_others(tmp_path):
    files = images("train/1.png", "train/2.png", "test/3.png")
    files["train/metadata.csv"] = "file_name,label\n1.png,a\n2.png,b\n"
    sources = open_splits(write(tmp_path, files))
    assert classes_of(sources["train"]) == {"train/1.png": "a", "train/2.png": "b"}
    assert sources["test"].labels is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "Filename,Category\n1.png,red\n2.png,blue\n"),
        ("labels.csv", "image;label\n1.png;red\n2.png;blue\n"),
        ("annotations.tsv", "path\tclass\n1.png\tred\n2.png\tblue\n"),
        ("labels.csv", "\ufeffid,target\n1,red\n2,blue\n"),
        (
            "metadata.jsonl",
            '{"image": "x/1.png", "class_name": "red"}\n\n'
            '{"image": "x/2.png", "class_name": "blue"}\n',
        ),
    ],
)
@pytest.mark.parametrize("folder", ["", "images/"])
def test_tables_with_other_columns(tmp_path, name, text, folder):
    files = images(f"{folder}1.png", f"{folder}2.png") | {name: text}
    source = open_source(write(tmp_path, files))
    assert classes_of(source) == {f"{folder}1.png": "red", f"{folder}2.png": "blue"}


def test_ambiguous_file_names_are_not_guessed(tmp_path):
    files = images("a/1.png", "b/1.png") | {"metadata.csv": "file_name,label\n1.png,red\n"}
    source = open_source(write(tmp_path, files))
    assert source.class_names == ["a", "b"]
    assert source.notes == ["the metadata files name no image that exists"]


def test_table_without_file_names_is_named(tmp_path):
    files = images("1.png") | {"metadata.csv": "x,label\n1,red\n"}
    assert open_source(write(tmp_path, files)).notes == [
        "metadata.csv has no column file_name and is not read; its columns are: x, label"
    ]


def test_other_tables_and_archives_have_their_own_reasons(tmp_path):
    files = images("1.png") | {"train.csv": "a,b\n", "more.rar": b"Rar!"}
    assert open_source(write(tmp_path, files)).ignored == {
        "train.csv": "is a table whose name is not metadata.csv, metadata.jsonl, labels.csv …: "
        "rename it to read its labels",
        "more.rar": "is an archive that is damaged, or of a kind that is not read",
    }


def test_shards_may_repeat_keys(tmp_path):
    for shard, label in enumerate([b"3", b"5"]):
        members = {"000.png": image_file(), "000.cls": label, "000.txt": b"a caption"}
        write_shard(tmp_path / f"{shard}.tar", members)
    source = open_source(tmp_path)
    assert classes_of(source) == {"0.tar/000.png": "3", "1.tar/000.png": "5"}
    assert source.ignored == {}


def test_tables_in_archives_belong_to_their_archive(tmp_path):
    for shard, label in enumerate(["red", "blue"]):
        table = json.dumps({"file_name": "1.png", "class": label}).encode()
        write_shard(tmp_path / f"{shard}.tar", {"1.png": image_file(), "metadata.jsonl": table})
    assert classes_of(open_source(tmp_path)) == {"0.tar/1.png": "red", "1.tar/1.png": "blue"}


def test_classes_option_selects_labels(tmp_path):
    files = images("1.png", "2.png", "3.png")
    files["metadata.csv"] = "file_name,label\n1.png,red\n2.png,blue\n3.png,green\n"
    source = open_source(write(tmp_path, files), classes=["green", "red"])
    assert classes_of(source) == {"1.png": "red", "3.png": "green"}
    assert list(source.class_names) == ["green", "red"]
    assert source.ignored == {"2.png": "is in none of data.classes"}


def test_classes_option_may_name_folders_beside_labels(tmp_path):
    files = images("a/1.png", "b/2.png") | {"metadata.csv": "file_name,label\na/1.png,red\n"}
    assert classes_of(open_source(write(tmp_path, files), classes=["b"])) == {"b/2.png": "b"}


def jsonl(**labels) -> str:
    rows = [{"file_name": f"{name}.png", "label": label} for name, label in labels.items()]
    return "\n".join(map(json.dumps, rows))


def test_integral_floats_are_class_numbers(tmp_path):
    write(tmp_path / "a", images("x.png", "y.png") | {"metadata.jsonl": jsonl(x=1.0, y=0)})
    labels = json.dumps({"labels": [["x.png", 1.0], ["y.png", 0]]})
    write(tmp_path / "b", images("x.png", "y.png") | {"dataset.json": labels})
    for name in ("a", "b"):
        assert classes_of(open_source(tmp_path / name)) == {"x.png": "1", "y.png": "0"}


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (True, "true or false"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
        (0.5, "a number with a fraction"),
    ],
)
def test_values_that_are_no_classes_are_named(tmp_path, label, kind):
    files = images("x.png", "y.png") | {"metadata.jsonl": jsonl(x=label, y=label)}
    source = open_source(write(tmp_path, files))
    assert source.labels is None
    assert source.notes == [f"the field label of x.png and 1 more is {kind}, which is no class"]


def test_line_separators_in_json_texts(tmp_path):
    line = '{"file_name": "1.png", "label": "a", "text": "x\u2028y"}\r\n'
    source = open_source(write(tmp_path, images("1.png") | {"metadata.jsonl": line}))
    assert classes_of(source) == {"1.png": "a"}


def test_different_classes_of_one_file_are_named(tmp_path):
    files = images("1.png") | {"labels.csv": "file_name,label\n1.png,a\n1.png,b\n"}
    source = open_source(write(tmp_path, files))
    assert classes_of(source) == {"1.png": "b"}
    assert source.notes == ["1.png: listed with a and b; the last class is used"]


def test_negative_numbers_mean_no_class(tmp_path):
    files = images("1.png", "2.png") | {"labels.csv": "file_name,label\n1.png,-1\n2.png,0\n"}
    source = open_source(write(tmp_path, files))
    assert source.labels is None
    assert source.notes == ["no classes, because 1.png has no class in the metadata files"]


def test_names_of_tables_ignore_case(tmp_path):
    files = images("1.png", "2.png")
    files["Metadata.JSONL"] = '{"file_name": "1.png", "label": "a"}'
    files["Labels.CSV"] = "file_name,kind\n2.png,b\n"
    assert classes_of(open_source(write(tmp_path, files))) == {"1.png": "a", "2.png": "b"}


def test_numbers_with_leading_zeros_are_names(tmp_path):
    text = "file_name,label\n1.png,000\n2.png,005\n3.png,10\n"
    source = open_source(write(tmp_path, images("1.png", "2.png", "3.png") | {"labels.csv": text}))
    assert source.class_names == ["000", "005", "10"]


def test_tables_in_another_encoding(tmp_path):
    text = "file_name,label\n1.png,grün\n".encode("latin-1")
    with pytest.raises(DataError, match=r"labels\.csv cannot be read.*; save it as UTF-8$"):
        open_source(write(tmp_path, images("1.png") | {"labels.csv": text}))


def test_class_files_in_another_encoding_are_named(tmp_path):
    files = images("1.png", "2.png") | {"1.cls": b"gr\xfcn", "2.cls": "blau"}
    source = open_source(write(tmp_path, files))
    assert source.labels is None
    assert source.notes == [
        "not UTF-8 and read as no class: 1.cls",
        "no classes, because 1.png has no class in the files beside the images",
    ]
