import datasets
import pytest
from PIL import Image

from training.data.sources import open_source, open_splits


def rows(labels, label_feature, **more):
    features = {"image": datasets.Image(), "label": label_feature}
    columns = {"image": [Image.new("L", (4, 4), i) for i in range(len(labels))], "label": labels}
    for name in more:
        features[name] = datasets.Image()
        columns[name] = columns["image"]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


NAMES = datasets.ClassLabel(names=["no", "yes"])


def test_labels_of_minus_one_are_no_class(tmp_path):
    datasets.DatasetDict({"train": rows([1, 0], NAMES), "test": rows([0, -1], NAMES)}).save_to_disk(
        tmp_path / "data"
    )
    sources = open_splits(tmp_path / "data")
    assert (sources["train"].labels, sources["train"].class_names) == ([1, 0], ["no", "yes"])
    assert sources["test"].labels is None
    assert sources["test"].notes == ["no classes, because row 1 has none"]


@pytest.mark.parametrize(
    ("labels", "kind", "class_names"),
    [(["b", "a"], "string", ["a", "b"]), ([0, 2], "int64", ["0", "1", "2"])],
)
def test_columns_of_texts_and_numbers_are_classes(tmp_path, labels, kind, class_names):
    rows(labels, datasets.Value(kind)).save_to_disk(tmp_path / "data")
    source = open_source(tmp_path / "data")
    assert source.class_names == class_names
    assert [source.class_names[label] for label in source.labels] == [str(x) for x in labels]


def test_other_image_columns_are_named(tmp_path):
    rows([0], NAMES, mask=True).save_to_disk(tmp_path / "data")
    assert open_source(tmp_path / "data").notes == [
        "the images are those of the column image; not read: mask"
    ]


def test_images_of_other_classes_are_ignored_with_the_reason(tmp_path):
    rows([0, 1, 1], NAMES).save_to_disk(tmp_path / "data")
    source = open_source(tmp_path / "data", classes=["yes"])
    assert (source.labels, source.class_names) == ([0, 0], ["yes"])
    assert list(source.ignored.values()) == ["is in none of data.classes"]
    assert source.read(0).getpixel((0, 0)) == 1
