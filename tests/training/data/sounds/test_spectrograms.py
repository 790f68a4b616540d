import numpy as np
import pytest
import torch

from tests.support.sounds import tone
from training.data.sounds.spectrograms import FLOOR_DB, log_mel


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_higher_tone_is_in_a_higher_band(rate):
    tones = np.stack([tone(frequency, 0.5, rate) for frequency in (200, 800, 3000)])
    bands = log_mel(torch.from_numpy(tones), rate).mean(2).argmax(1).tolist()
    assert bands == sorted(set(bands))


def test_levels_are_decibels():
    tones = torch.from_numpy(np.stack([tone(1000, 0.5), tone(1000, 0.5) / 10]))
    loud, quiet = log_mel(tones, 8000).amax((1, 2)).tolist()
    assert abs((loud - quiet) * -FLOOR_DB - 20) < 0.1
    assert log_mel(torch.zeros(1, 8000), 8000).max() == 0
