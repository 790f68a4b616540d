import numpy as np
import pytest

from service.runtime.audio.preview import SPECTROGRAM_HEIGHT, WAVE_HEIGHT, WIDTH, preview_image


def brightest_row(image):
    """The row of the spectrogram that is brightest on average, from the bottom, in [0, 1]."""
    rows = image[WAVE_HEIGHT:].astype(int).sum(axis=(1, 2))
    return 1 - int(rows.argmax()) / (SPECTROGRAM_HEIGHT - 1)


@pytest.mark.parametrize("frequency", [0.1, 0.25, 0.4])
def test_tone_is_bright_at_its_frequency(frequency):
    wave = np.sin(2 * np.pi * frequency * np.arange(8000)) * 20_000
    image = preview_image(wave.astype(np.int16))
    assert brightest_row(image) == pytest.approx(2 * frequency, abs=0.03)


def test_waveform_is_as_high_as_the_samples():
    samples = np.zeros(4000, np.int16)
    samples[:2000] = np.tile([16384, -16384], 1000)
    wave = preview_image(samples)[:WAVE_HEIGHT].astype(int).sum(axis=2)
    heights = (wave > wave.min()).sum(axis=0)
    assert heights[: WIDTH // 2 - 1].min() == pytest.approx(WAVE_HEIGHT / 2, abs=2)
    assert heights[WIDTH // 2 + 1 :].max() == 1


@pytest.mark.parametrize("length", [1, 5, 300, 100_000])
def test_any_length_can_be_drawn(length):
    image = preview_image(np.full(length, -32768, np.int16))
    assert (image.shape, image.dtype) == ((WAVE_HEIGHT + SPECTROGRAM_HEIGHT, WIDTH, 3), np.uint8)


def test_silence_is_dark():
    image = preview_image(np.zeros(1000, np.int16))
    assert len(np.unique(image[WAVE_HEIGHT:].reshape(-1, 3), axis=0)) == 1
