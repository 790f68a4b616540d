from training.data.findings import empty_class_lines


def test_empty_classes_are_listed_in_one_line():
    counts = {str(i): 0 for i in range(1, 9)}
    assert empty_class_lines({"0": 4, **counts}, "val") == [
        "the classes 1, 2, 3 and 5 more have no readable image in the split val"
    ]
    assert empty_class_lines({"a": 0, "b": 0}) == ["the classes a and b have no readable image"]
    assert empty_class_lines({"a": 0, "b": 1}) == ["the class a has no readable image"]
