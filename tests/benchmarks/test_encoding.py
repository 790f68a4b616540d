import numpy as np
import pytest

from benchmarks import encoding


def test_photograph_is_neither_flat_nor_white_noise():
    image = encoding.photograph(64, 3)
    assert image.shape == (64, 64, 3)
    assert image.std() > 20
    # Neighboring pixels and the channels of a photograph are correlated.
    steps = np.abs(np.diff(image.astype(int), axis=1)).mean()
    assert 2 < steps < image.std()
    assert np.corrcoef(image[..., 0].ravel(), image[..., 1].ravel())[0, 1] > 0.5


def test_first_row_is_the_baseline():
    rows = encoding.measure(16, 4, rounds=1)
    assert rows[0]["encoder"] == encoding.BASE
    assert rows[0]["faster"]["median"] == rows[0]["size"] == 1


def test_encoder_that_changes_pixels_aborts_the_benchmark(monkeypatch):
    original = encoding.pillow
    monkeypatch.setattr(encoding, "pillow", lambda pixels, level: original(pixels ^ 1, level))
    with pytest.raises(SystemExit, match="changes pixels"):
        encoding.measure(16, 3, rounds=1)
