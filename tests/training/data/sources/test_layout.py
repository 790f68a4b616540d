import pytest

from training.data.sources import DataError
from training.data.sources.layout import layout_of, splits_of_files

SPLITS = ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png"]


def classes_of(paths, split=None, classes=None):
    layout = layout_of("data", paths, split, classes)
    if layout.labels is None:
        return None
    return {
        paths[row]: layout.class_names[label]
        for row, label in zip(layout.rows, layout.labels, strict=True)
    }


@pytest.mark.parametrize("root", ["", "animals/", "a/b/"])
@pytest.mark.parametrize(("split", "rows"), [(None, [0, 1]), ("train", [0, 1]), ("test", [2])])
def test_folders_that_are_all_splits_are_splits(root, split, rows):
    layout = layout_of("data", [root + path for path in SPLITS], split)
    assert layout.rows == rows
    assert layout.splits == {"train": 2, "val": 1}
    # A class has the same number in all splits.
    assert layout.class_names == ["cat", "dog"]


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAINING", "VALID"), ("train", "Val")])
def test_case_of_split_folders_does_not_matter(names):
    paths = [f"{names[0]}/cat/1.png", f"{names[1]}/cat/2.png"]
    for split, rows in [(None, [0]), ("train", [0]), ("test", [1]), (names[1], [1])]:
        layout = layout_of("data", paths, split)
        assert (layout.rows, layout.splits) == (rows, dict.fromkeys(names, 1))


def test_classes_of_the_training_split_come_first():
    paths = ["train/b/1.png", "train/d/1.png", "val/a/1.png", "val/d/1.png"]
    assert layout_of("data", paths, "train").class_names == ["b", "d"]
    layout = layout_of("data", paths, "val")
    assert (layout.class_names, layout.labels) == (["b", "d", "a"], [2, 1])


@pytest.mark.parametrize("name", ["train", "test", "val", "validation", "training"])
def test_class_with_the_name_of_a_split(name):
    paths = ["bus/1.png", "car/2.png", f"{name}/3.png"]
    assert classes_of(paths) == {path: path.split("/")[0] for path in paths}


def test_note_on_a_class_that_could_be_a_split():
    (note,) = layout_of("data", ["bus/1.png", "train/2.png"], None).notes
    assert note == (
        "the folder train is a class, because of the other folders: bus; "
        "set data.split=train if it is a split"
    )


def test_split_option_makes_a_folder_a_split():
    paths = ["bus/1.png", "train/cat/2.png", "test/cat/3.png"]
    layout = layout_of("data", paths, "train")
    assert (layout.rows, layout.class_names) == ([1], ["cat"])
    assert layout.splits == {"train": 1, "test": 1}
    assert layout.ignored == {"bus/1.png": "lies beside the split folders"}


def test_classes_option_makes_split_folders_classes():
    paths = ["train/1.png", "test/2.png"]
    assert classes_of(paths, classes=["test", "train"]) == {
        "test/2.png": "test",
        "train/1.png": "train",
    }
    assert layout_of("data", paths, None, ["test", "train"]).class_names == ["test", "train"]


def test_classes_option_selects_folders():
    layout = layout_of("data", ["a/1.png", "b/2.png", "3.png"], None, ["b"])
    assert (layout.rows, layout.labels, layout.class_names) == ([1], [0], ["b"])
    assert set(layout.ignored) == {"a/1.png", "3.png"}
    with pytest.raises(DataError, match=r"data.classes: data has no class folder 'c'; .*: a, b"):
        layout_of("data", ["a/1.png", "b/2.png"], None, ["c"])


def test_empty_classes_option_ignores_folders():
    layout = layout_of("data", ["a/1.png", "b/2.png"], None, ())
    assert (layout.rows, layout.labels, list(layout.class_names)) == ([0, 1], None, [])


def test_image_beside_class_folders_is_named():
    layout = layout_of("data", ["a/1.png", "b/2.png", "x.png", "y.png"], None)
    assert layout.labels is None
    assert layout.rows == [0, 1, 2, 3]
    (note,) = layout.notes
    assert note.startswith("no classes, because x.png and 1 more lies beside the folders a, b")


def test_images_beside_split_folders_prevent_splits():
    layout = layout_of("data", ["train/1.png", "x.png"], None)
    assert (layout.rows, layout.splits) == ([0, 1], {})


def test_single_split_folder_is_a_split():
    layout = layout_of("data", ["train/a/1.png", "train/b/2.png"], None)
    assert (layout.splits, layout.class_names) == ({"train": 2}, ["a", "b"])
    with pytest.raises(DataError, match="data has no split 'test'; available: train"):
        layout_of("data", ["train/a/1.png"], "test")


def test_images_in_one_folder_are_one_class():
    assert classes_of(["cat/1.png", "cat/2.png"]) == {"cat/1.png": "cat", "cat/2.png": "cat"}


def test_deep_folders_count_by_their_top():
    assert classes_of(["x/cat/a/1.png", "x/cat/2.png", "x/dog/b/c/3.png"]) == {
        "x/cat/a/1.png": "cat",
        "x/cat/2.png": "cat",
        "x/dog/b/c/3.png": "dog",
    }


def test_images_beside_several_split_folders_are_left_out():
    layout = layout_of("data", ["train/1.png", "val/2.png", "preview.png"], None)
    assert (layout.rows, layout.splits) == ([0], {"train": 1, "val": 1})
    assert layout.ignored == {"preview.png": "lies beside the split folders"}


def test_note_on_splits_in_class_folders():
    paths = ["a/train/1.png", "a/test/2.png", "b/train/3.png"]
    (note,) = layout_of("data", paths, None).notes
    assert note.startswith("the folders test, train in the class folders are no splits")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000.tar", "val_0.tar"], ["train", "val"]),
        (["data/Train.zip", "data/TEST.zip"], ["Train", "TEST"]),
        (["shard-0.tar"], []),
        (["trainees.zip", "testimony.zip"], []),
    ],
)
def test_splits_by_the_names_of_files(names, splits):
    assert splits_of_files(names) == (splits, [])
