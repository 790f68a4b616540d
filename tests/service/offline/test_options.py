import pytest

from service.offline.options import (
    parse_boxes,
    parse_classes,
    parse_directions,
    parse_layers,
    parse_seed_range,
    parse_size,
)
from service.runtime.request_fields import InvalidRequest

NAMES = ("cat", "dog", "a=b")


def test_parses_valid_text():
    assert parse_seed_range("5-14") == (5, 14)
    assert parse_layers("coarse, 3") == ["coarse", "3"]
    assert parse_directions("size=1.5, color=-2") == {"size": 1.5, "color": -2.0}
    assert parse_size("64") == (64, 64)
    assert parse_size("24x40") == (24, 40)
    assert parse_boxes("1,2,3,4; 5,6,7,8") == [(1, 2, 3, 4), (5, 6, 7, 8)]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("balanced", "balanced"),
        ("cat,0", ["cat", "0"]),
        (",", []),
        ("cat=1,dog=2.5", {"cat": 1.0, "dog": 2.5}),
        ("a=b,cat", ["a=b", "cat"]),
    ],
)
def test_parses_classes(text, classes):
    assert parse_classes(text, NAMES) == classes


@pytest.mark.parametrize(
    ("parse", "field", "message"),
    [
        (lambda: parse_seed_range("all"), "seeds", "A-B"),
        (lambda: parse_classes("cat=1,dog", NAMES), "classes", "NAME=WEIGHT"),
        (lambda: parse_classes("cat=1,cat=2", NAMES), "classes", "twice"),
        (lambda: parse_directions("size"), "directions", "NAME=AMOUNT"),
        (lambda: parse_directions("size=1,size=2"), "directions", "twice"),
        (lambda: parse_size("64x"), "resize", "WIDTHxHEIGHT"),
        (lambda: parse_boxes("1,2,3"), "boxes", "X,Y,WIDTH,HEIGHT"),
        (lambda: parse_boxes("1,2,3,x"), "boxes", "X,Y,WIDTH,HEIGHT"),
    ],
)
def test_rejects_invalid_text_by_field(parse, field, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        parse()
    assert raised.value.field == field
