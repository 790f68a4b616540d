import pytest

from training.data.preparation.options import (
    PreparationError,
    PreparationOptions,
    parse_fractions,
    parse_size,
)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (("128", None, None), (128, 128)),
        (("256x192", None, None), (256, 192)),
        (("256×192", None, None), (256, 192)),
        ((None, 30, 20), (30, 20)),
        ((None, None, None), None),
    ],
)
def test_sizes(arguments, size):
    assert parse_size(*arguments) == size


@pytest.mark.parametrize(
    "arguments",
    [("x", None, None), ("0", None, None), ("99999", None, None), ("8", 8, 8), (None, 8, None)],
)
def test_rejects_bad_sizes(arguments):
    with pytest.raises(PreparationError, match="--"):
        parse_size(*arguments)


def test_fractions():
    assert parse_fractions("train=0.8, val=0.1,test=0.1") == {"train": 0.8, "val": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.9", "add up to 1"),
        ("train=0.5,train=0.5", "expected NAME=FRACTION"),
        ("train=x,val=0.1", "expected NAME=FRACTION"),
        ("train=nan,val=0.1", "expected NAME=FRACTION"),
        ("train=1.1,val=-0.1", "expected NAME=FRACTION"),
        ("train=0.5,cats=0.5", "'cats' is not the name of a split"),
    ],
)
def test_rejects_bad_fractions(text, message):
    with pytest.raises(PreparationError, match=message):
        parse_fractions(text)


def test_rejects_contradictions():
    with pytest.raises(PreparationError, match="wider than high"):
        PreparationOptions(size=(64, 64), crop="center-crop-wide")
    with pytest.raises(PreparationError, match="no transparency"):
        PreparationOptions(file_format="jpeg", mode="keep")
