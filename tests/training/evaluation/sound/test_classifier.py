"""The classifier that measures sounds."""

import numpy as np
import pytest
import torch

from tests.support.sounds import write_tones
from training.data.images import DataOptions
from training.data.sounds.data import load_sounds
from training.data.sounds.options import SoundOptions
from training.evaluation.sound.classifier import ClassifierSettings, trained_classifier

SETTINGS = ClassifierSettings(width=4, sounds=9600, learning_rate=1e-2)
# Not enough to recognize anything.
SHORT = ClassifierSettings(width=2, sounds=128)
RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("sounds") / "tones", count=64)


def sounds(tones, split="train"):
    sound = SoundOptions(rate=RATE, samples=512)
    return load_sounds(DataOptions(path=str(tones), sound=sound, split=split))


def test_recognizes_held_out_sounds(tones):
    test = sounds(tones, "test")
    classifier = trained_classifier(sounds(tones), RATE, SETTINGS)
    classes, features = classifier.describe(test.samples)
    assert (classes == test.labels).mean() > 0.9
    assert features.shape == (len(test), 8 * SETTINGS.width)
    # Rows are independent of their batch.
    reversed_classes, _ = classifier.describe(test.samples[::-1])
    np.testing.assert_array_equal(reversed_classes, classes[::-1])


def test_weights_are_cached_for_the_same_sounds_only(tones, cache):
    data = sounds(tones)
    steps = []
    trained_classifier(data, RATE, SHORT, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (128, 128)
    first = trained_classifier(data, RATE, SHORT, lambda *_: pytest.fail("trained again"))
    assert len(list(cache.rglob("*.pt"))) == 1
    data.samples[0, 0] += 1
    trained_classifier(data, RATE, SHORT)
    trained_classifier(data, RATE, ClassifierSettings(width=2, sounds=128, seed=1))
    assert len(list(cache.rglob("*.pt"))) == 3
    assert not first.network.training


def test_training_is_reproducible_and_leaves_the_random_state(tones, cache):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = trained_classifier(sounds(tones), RATE, SHORT)
    assert torch.equal(torch.rand(3), expected)
    for path in cache.rglob("*.pt"):
        path.unlink()
    second = trained_classifier(sounds(tones), RATE, SHORT)
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key
