import io

import numpy as np
import pytest
from PIL import Image

from tests.support.images import drawn_digits
from training.evaluation.metrics.memorization import Duplicates


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """Pieces of two photographs, ``[N, 32, 32, 3] uint8``, none overlapping another.

    Those of plain sky are left out: they are equal to the eye, and rightly found.
    """
    from sklearn.datasets import load_sample_images

    pieces = []
    for image in load_sample_images().images:
        for y in range(0, 384, 32):
            for x in range(0, 640, 32):
                piece = image[y : y + 32, x : x + 32]
                if piece.std(axis=(0, 1)).mean() > 20:
                    pieces.append(piece)
    rng = np.random.default_rng(0)
    return np.stack(pieces)[rng.permutation(len(pieces))[:400]]


def jpeg(pixels: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return np.asarray(Image.open(out))


def test_planted_copies_of_training_pictures_are_found_and_no_others(photographs):
    training, others = photographs[:110], photographs[110:]
    made = others.copy()
    rows = np.arange(0, 80, 10)
    made[rows] = training[rows]
    distances, found = Duplicates(training, mirrored=False).nearest(made)
    assert (distances[rows, 0] <= 1).all()
    assert found[rows, 0].tolist() == rows.tolist()
    assert (np.delete(distances[:, 0], rows) > 1).all()


def test_a_copy_is_found_through_a_lossy_file(photographs):
    training = photographs[:110]
    made = np.stack([jpeg(pixels) for pixels in training[:20]])
    distances, found = Duplicates(training, mirrored=False).nearest(made)
    assert (distances[:, 0] <= 1).mean() > 0.8
    assert found[:, 0].tolist() == list(range(20))


def test_mirror_images_count_where_training_flips(photographs):
    training = photographs[:110]
    made = training[:10, :, ::-1]
    assert (Duplicates(training, mirrored=False).nearest(made)[0] > 1).all()
    distances, rows = Duplicates(training, mirrored=True).nearest(made, count=3)
    assert (distances[:, 0] <= 1).all()
    assert rows[:, 0].tolist() == list(range(10))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_planted_duplicates_are_found(photographs):
    copies = Duplicates(photographs[:110], mirrored=False)
    made = photographs[110:].copy()
    assert not copies.twins(made).any()
    made[50:60] = made[:10]
    assert np.flatnonzero(copies.twins(made)).tolist() == [*range(10), *range(50, 60)]


def test_digits_of_one_class_are_not_taken_for_copies():
    rng = np.random.default_rng(0)
    pixels = drawn_digits(200)[0][..., None]
    noisy = (pixels * 0.8 + rng.uniform(0, 50, pixels.shape)).astype(np.uint8)
    assert not Duplicates(noisy, mirrored=False).twins(noisy).any()


def test_equal_training_pictures_do_no_harm():
    same = np.zeros((5, 8, 8, 1), np.uint8)
    assert (Duplicates(same, mirrored=False).nearest(same)[0] == 0).all()
    assert (Duplicates(same, mirrored=False).nearest(same + 9)[0] > 1).all()
    with pytest.raises(ValueError, match="no neighbours"):
        Duplicates(same[:1], mirrored=False)
