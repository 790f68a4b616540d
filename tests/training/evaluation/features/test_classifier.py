from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.images import drawn_digits
from training.data.images import ImageData
from training.evaluation.errors import QualityError
from training.evaluation.features.classifier import ClassifierSettings, trained_classifier

FAST = ClassifierSettings(width=8, images=6_000)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    pixels, labels = drawn_digits(600)
    return ImageData(pixels[..., None], labels.astype(np.int64), tuple("0123456789"))


def test_accuracy_is_measured_on_held_out_images(digits):
    classifier = trained_classifier(digits, 28, FAST)
    assert (classifier.trained_on, classifier.held_out) == (540, 60)
    assert classifier.accuracy > 0.9
    predicted = classifier.classes_of(digits.pixels)
    assert (predicted == digits.labels).mean() > 0.9


def test_random_labels_give_low_accuracy(digits):
    shuffled = np.random.default_rng(1).permutation(digits.labels)
    assert trained_classifier(replace(digits, labels=shuffled), 28, FAST).accuracy < 0.4


def test_training_is_reproducible(digits, tmp_path, monkeypatch):
    weights = []
    for place in "ab":
        monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / place))
        torch.manual_seed(ord(place))
        before = torch.get_rng_state()
        network = trained_classifier(digits, 28, replace(FAST, images=1_000)).network
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([p.flatten() for p in network.state_dict().values()]))
    assert torch.equal(*weights)


def test_cache_depends_on_images_and_settings(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path))
    short = replace(FAST, images=500)
    steps = []

    def classifier_and_whether_trained(images=digits, settings=short):
        steps.clear()
        classifier = trained_classifier(images, 28, settings, lambda done, _: steps.append(done))
        return classifier, bool(steps)

    first, was_trained = classifier_and_whether_trained()
    assert was_trained
    again, was_trained = classifier_and_whether_trained()
    assert not was_trained
    assert again.accuracy == first.accuracy
    assert np.array_equal(again.classes_of(digits.pixels), first.classes_of(digits.pixels))
    for other in ({"width": 9}, {"flip": True}, {"seed": 1}, {"images": 600}):
        assert classifier_and_whether_trained(settings=replace(short, **other))[1]
    changed = digits.pixels.copy()
    changed[3, 4, 5] ^= 1
    assert classifier_and_whether_trained(replace(digits, pixels=changed))[1]
    assert len(list((tmp_path / "classifiers").iterdir())) == 6


@pytest.mark.parametrize(("size", "stored", "channels"), [(32, 36, 3), (48, 48, 4), (128, 128, 3)])
def test_trains_on_any_size_and_channels(size, stored, channels):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pixels = rng.integers(0, 100, (80, stored, stored, channels), np.uint8)
    pixels[labels == 1, ..., 0] += 150
    images = ImageData(pixels, labels.astype(np.int64), ("dark", "bright"))
    settings = ClassifierSettings(width=4, images=3_000, flip=True)
    classifier = trained_classifier(images, size, settings)
    assert classifier.accuracy == 1


def test_rejects_missing_classes_and_too_few_images(digits):
    with pytest.raises(QualityError, match="no classes"):
        trained_classifier(replace(digits, labels=None, class_names=()), 28, FAST)
    few = replace(digits, pixels=digits.pixels[:5], labels=digits.labels[:5])
    with pytest.raises(QualityError, match="5 images are too few"):
        trained_classifier(few, 28, FAST)
