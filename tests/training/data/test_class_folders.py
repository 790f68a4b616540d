from training.data.class_folders import class_folders


def test_safe_names_are_kept():
    names = ["cat", "tüte", "a.b_c-1", "t-shirt"]
    assert class_folders(names) == names


def test_names_are_safe_unique_and_no_splits():
    names = ["a b", "a/b", "A-B", "..", "", "Train", "x" * 300]
    folders = class_folders(names)
    assert folders[:6] == ["a-b", "a-b-2", "A-B-3", "class", "class-2", "class-Train"]
    assert len(folders[6]) == 100
