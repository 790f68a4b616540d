import numpy as np
import pytest

from benchmarks import encoding


def test_pictures_are_neither_flat_nor_white_noise():
    picture = encoding.photograph(64, 3)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 20
    # Neighbours in a photograph are alike, and so are its channels.
    steps = np.abs(np.diff(picture.astype(int), axis=1)).mean()
    assert 2 < steps < picture.std()
    assert np.corrcoef(picture[..., 0].ravel(), picture[..., 1].ravel())[0, 1] > 0.5


def test_every_encoder_is_compared_with_the_base_and_keeps_the_pixels():
    rows = encoding.measure(16, 4, rounds=1)
    assert rows[0]["encoder"] == encoding.BASE
    assert rows[0]["faster"]["median"] == rows[0]["size"] == 1


def test_an_encoder_that_changes_pixels_ends_the_benchmark(monkeypatch):
    sound = encoding.pillow
    monkeypatch.setattr(encoding, "pillow", lambda pixels, level: sound(pixels ^ 1, level))
    with pytest.raises(SystemExit, match="other pixels"):
        encoding.measure(16, 3, rounds=1)
