import numpy as np

from tests.support.sounds import RATE, tone
from training.data.sounds.decoding import to_int16
from training.preview.sounds import in_a_row, sound_sheet


def test_a_loud_sound_draws_a_taller_waveform():
    silence, loud = np.zeros(8000), tone(440, 1.0)
    sheet = np.asarray(sound_sheet(to_int16(np.stack([silence, loud])), RATE, 2))
    ink = [(sheet[:32, start : start + 128] != 255).any(-1).sum() for start in (0, 132)]
    assert ink[1] > 8 * ink[0] > 0
    # The spectrogram of silence has one color.
    spectrogram = sheet[32:96, :128]
    assert (spectrogram == spectrogram[0, 0]).all()
    assert len(np.unique(sheet[32:96, 132:260].reshape(-1, 3), axis=0)) > 10


def test_sounds_are_joined_with_a_pause():
    samples = np.full((3, 10), 7, np.int16)
    joined = in_a_row(samples, 100)
    assert len(joined) == 3 * 10 + 2 * 20
    assert joined.sum() == samples.sum()
