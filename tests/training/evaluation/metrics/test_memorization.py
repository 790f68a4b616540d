import io

import numpy as np
import pytest
from PIL import Image

from tests.support.images import drawn_digits
from training.evaluation.metrics.memorization import DuplicateSearch


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Tiles of two photographs, ``[N, 32, 32, 3] uint8``, without overlap.

    Tiles of plain sky are omitted, because they look the same and would correctly be found.
    """
    from sklearn.datasets import load_sample_images

    tiles = []
    for image in load_sample_images().images:
        for y in range(0, 384, 32):
            for x in range(0, 640, 32):
                tile = image[y : y + 32, x : x + 32]
                if tile.std(axis=(0, 1)).mean() > 20:
                    tiles.append(tile)
    rng = np.random.default_rng(0)
    return np.stack(tiles)[rng.permutation(len(tiles))[:400]]


def jpeg(pixels: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return np.asarray(Image.open(out))


def test_finds_exactly_the_planted_copies(photographs):
    training, others = photographs[:110], photographs[110:]
    generated = others.copy()
    rows = np.arange(0, 80, 10)
    generated[rows] = training[rows]
    distances, nearest = DuplicateSearch(training, mirrored=False).nearest(generated)
    assert (distances[rows, 0] <= 1).all()
    assert nearest[rows, 0].tolist() == rows.tolist()
    assert (np.delete(distances[:, 0], rows) > 1).all()


def test_finds_copies_after_lossy_compression(photographs):
    training = photographs[:110]
    generated = np.stack([jpeg(pixels) for pixels in training[:20]])
    distances, nearest = DuplicateSearch(training, mirrored=False).nearest(generated)
    assert (distances[:, 0] <= 1).mean() > 0.8
    assert nearest[:, 0].tolist() == list(range(20))


def test_finds_mirrored_copies_if_training_flips(photographs):
    training = photographs[:110]
    generated = training[:10, :, ::-1]
    assert (DuplicateSearch(training, mirrored=False).nearest(generated)[0] > 1).all()
    distances, rows = DuplicateSearch(training, mirrored=True).nearest(generated, count=3)
    assert (distances[:, 0] <= 1).all()
    assert rows[:, 0].tolist() == list(range(10))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_finds_exactly_the_planted_duplicates(photographs):
    search = DuplicateSearch(photographs[:110], mirrored=False)
    generated = photographs[110:].copy()
    assert not search.duplicates(generated).any()
    generated[50:60] = generated[:10]
    assert np.flatnonzero(search.duplicates(generated)).tolist() == [*range(10), *range(50, 60)]


def test_digits_of_the_same_class_are_not_copies():
    rng = np.random.default_rng(0)
    pixels = drawn_digits(200)[0][..., None]
    noisy = (pixels * 0.8 + rng.uniform(0, 50, pixels.shape)).astype(np.uint8)
    assert not DuplicateSearch(noisy, mirrored=False).duplicates(noisy).any()


def test_equal_training_images_are_allowed():
    same = np.zeros((5, 8, 8, 1), np.uint8)
    assert (DuplicateSearch(same, mirrored=False).nearest(same)[0] == 0).all()
    assert (DuplicateSearch(same, mirrored=False).nearest(same + 9)[0] > 1).all()
    with pytest.raises(ValueError, match="at least two training images"):
        DuplicateSearch(same[:1], mirrored=False)
