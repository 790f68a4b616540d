"""Files with the vectors of directions: exact, and safe to read from a stranger."""

import io
import zipfile

import numpy as np
import pytest

from service.runtime.latent.directions import load_directions, save_directions
from service.runtime.models.manifest import Manifest, ManifestError, file_sha256, read_manifest
from service.runtime.models.parts.additions import DIRECTIONS_FILE, Direction, Directions
from tests.support.drawn_models import W


def item(name: str) -> Direction:
    return Direction(name=name, space="w", method="sefa", description="component 1", layers=(0,))


@pytest.fixture
def described(drawn_repository, tmp_path):
    """Returns the manifest of a model whose directions `names` are in the file in `tmp_path`."""
    manifest = read_manifest(drawn_repository / "painted" / "1")

    def describe(*names: str) -> Manifest:
        sha256 = file_sha256(tmp_path / DIRECTIONS_FILE)
        directions = Directions(sha256=sha256, items=tuple(map(item, names)))
        return manifest.model_copy(update={"directions": directions})

    return describe


def test_vectors_are_read_as_written(tmp_path, described):
    vectors = {name: np.arange(1, W + 1, dtype=np.float32) * i for i, name in enumerate("cab", 1)}
    save_directions(tmp_path / DIRECTIONS_FILE, vectors)
    loaded = load_directions(tmp_path, described("a", "b", "c"))
    assert list(loaded) == ["a", "b", "c"]
    for name, vector in loaded.items():
        np.testing.assert_array_equal(vector, vectors[name])
    with np.load(tmp_path / DIRECTIONS_FILE) as archive:
        np.testing.assert_array_equal(archive["a"], vectors["a"])


def test_models_without_directions(tmp_path, drawn_repository):
    assert load_directions(tmp_path, read_manifest(drawn_repository / "painted" / "1")) == {}


def write_archive(path, arrays, compression=zipfile.ZIP_STORED, allow_pickle=False):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=allow_pickle)
            archive.writestr(f"{name}.npy", content.getvalue())


ONES = np.ones(W, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": ONES}, "different names: a, b"),
        ({"a": ONES, "b": ONES}, "different names: b"),
        ({"a": np.ones(W, np.float64)}, "a is float64"),
        ({"a": np.ones((W, 1), np.float32)}, r"expects float32 \[10\]"),
        ({"a": np.full(W, np.inf, np.float32)}, "finite values"),
        ({"a": 0 * ONES}, "not only zeros"),
        ({"a": np.array([{}] * 10, object)}, "not a valid .npz file"),
    ],
)
def test_other_contents_are_refused(tmp_path, described, arrays, message):
    write_archive(tmp_path / DIRECTIONS_FILE, arrays, allow_pickle=True)
    with pytest.raises(ManifestError, match=message):
        load_directions(tmp_path, described("a"))


def test_size_is_checked_before_decompression(tmp_path, described):
    arrays = {"a": np.zeros(10_000_000, np.float32)}
    write_archive(tmp_path / DIRECTIONS_FILE, arrays, zipfile.ZIP_DEFLATED)
    assert (tmp_path / DIRECTIONS_FILE).stat().st_size < 1_000_000
    with pytest.raises(ManifestError, match="40,000,128 bytes, which is too large"):
        load_directions(tmp_path, described("a"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive"])
def test_files_that_are_not_archives(tmp_path, described, content):
    (tmp_path / DIRECTIONS_FILE).write_bytes(content)
    with pytest.raises(ManifestError, match=r"not a valid \.npz file"):
        load_directions(tmp_path, described("a"))


def test_changed_and_missing_files(tmp_path, described):
    save_directions(tmp_path / DIRECTIONS_FILE, {"a": ONES})
    manifest = described("a")
    save_directions(tmp_path / DIRECTIONS_FILE, {"a": 2 * ONES})
    with pytest.raises(ManifestError, match="differs from the manifest"):
        load_directions(tmp_path, manifest)
    (tmp_path / DIRECTIONS_FILE).unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        load_directions(tmp_path, manifest)
