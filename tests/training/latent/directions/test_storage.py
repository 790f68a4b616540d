"""Directions in a model folder: added, renamed, reversed and removed."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.latent.directions import load_directions
from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.additions import Direction
from tests.support.drawn_models import W
from training.latent.directions.errors import DirectionsError
from training.latent.directions.storage import (
    FoundDirection,
    add_directions,
    edit_directions,
    strip_file,
)
from training.latent.directions.strips import STEPS


@pytest.fixture
def folder(tmp_path, drawn_repository) -> Path:
    return Path(shutil.copytree(drawn_repository / "painted" / "1", tmp_path / "painted" / "1"))


def strip_of(value: int) -> bytes:
    """A strip whose columns have different levels, beginning with `value`."""
    sheet = np.zeros((64, 64 * len(STEPS), 3), np.uint8)
    for i in range(len(STEPS)):
        sheet[:, 64 * i : 64 * (i + 1)] = value + i
    file = BytesIO()
    Image.fromarray(sheet).save(file, format="WEBP", lossless=True)
    return file.getvalue()


def found(name: str, value: float = 1.0) -> FoundDirection:
    entry = Direction(
        name=name,
        space="w",
        method="sefa",
        description="component 1",
        layers=(0,),
        strip=strip_file(name),
    )
    return FoundDirection(entry, np.full(W, value, np.float32), strip_of(int(10 * value)))


def vectors(folder: Path) -> dict[str, float]:
    """The first value of each vector by name."""
    loaded = load_directions(folder, read_manifest(folder))
    return {name: float(vector[0]) for name, vector in loaded.items()}


def columns(folder: Path, name: str) -> list[int]:
    """The level of each column of a strip."""
    strip = np.asarray(Image.open(folder / strip_file(name)))
    return [int(strip[0, 64 * i, 0]) for i in range(len(STEPS))]


def edit(folder, rename=None, reverse=(), drop=()):
    return edit_directions(folder, rename or {}, reverse, drop)


def test_directions_of_the_same_name_are_replaced_and_others_kept(folder):
    add_directions(folder, [found("a", 1), found("b", 2)])
    add_directions(folder, [found("b", 3), found("c", 4)])
    assert vectors(folder) == {"a": 1, "b": 3, "c": 4}
    assert columns(folder, "b")[0] == 30


def test_equal_directions_give_equal_files(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other" / "1"))
    for each in (folder, other):
        add_directions(each, [found("a"), found("b", 2)])
    assert (folder / "directions.npz").read_bytes() == (other / "directions.npz").read_bytes()


@pytest.mark.parametrize("name", ["file", "allow_pickle", "arr_0", "a.npy"])
def test_names_that_numpy_uses_itself(folder, name):
    add_directions(folder, [found("a", 1), found(name, 2)])
    assert vectors(folder) == {"a": 1, name: 2}


def test_renamed_directions_keep_vector_and_strip(folder):
    add_directions(folder, [found("a", 1), found("b", 2)])
    edit(folder, {"a": "size"})
    assert vectors(folder) == {"size": 1, "b": 2}
    assert columns(folder, "size")[0] == 10
    assert not (folder / strip_file("a")).exists()


def test_directions_can_exchange_their_names(folder):
    add_directions(folder, [found("a", 1), found("b", 2)])
    edit(folder, {"a": "b", "b": "a"})
    assert vectors(folder) == {"b": 1, "a": 2}
    assert (columns(folder, "a")[0], columns(folder, "b")[0]) == (20, 10)


def test_reversed_direction_has_the_opposite_vector_and_strip(folder):
    add_directions(folder, [found("a", 1)])
    before = columns(folder, "a")
    edit(folder, reverse=["a"])
    assert vectors(folder) == {"a": -1}
    assert columns(folder, "a") == before[::-1]


def test_named_directions_stay_when_the_rest_is_dropped(folder):
    add_directions(folder, [found(f"sefa-{i}", i) for i in range(1, 6)])
    edit(folder, {"sefa-3": "size"}, drop=["sefa-*"])
    assert vectors(folder) == {"size": 3}
    edit(folder, drop=["size"])
    assert read_manifest(folder).directions is None
    assert not (folder / "directions.npz").exists()
    assert not list(folder.glob("*.webp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rename": {"c": "d"}}, "no direction 'c'; available: a, b"),
        ({"rename": {"a": "b"}}, "there would be two directions 'b'"),
        ({"rename": {"a": "Not a slug"}}, "cannot be the name of a direction"),
        ({"rename": {"a": "12"}}, "cannot be the name of a direction"),
        ({"rename": {"a": "a" * 65}}, "cannot be the name of a direction"),
        ({"reverse": ["c"]}, "no direction 'c'"),
        ({"drop": ["c*"]}, "no direction 'c*'"),
    ],
)
def test_refuses_invalid_changes_and_keeps_all(folder, options, message):
    add_directions(folder, [found("a", 1), found("b", 2)])
    manifest = (folder / "model.json").read_bytes()
    with pytest.raises(DirectionsError) as caught:
        edit(folder, **options)
    assert message in str(caught.value)
    assert (folder / "model.json").read_bytes() == manifest
