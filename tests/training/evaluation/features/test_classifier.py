from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.images import drawn_digits
from training.data.images import ImageData
from training.evaluation.errors import QualityError
from training.evaluation.features.classifier import ClassifierSettings, trained_classifier

QUICK = ClassifierSettings(width=8, images=6_000)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    pixels, labels = drawn_digits(600)
    return ImageData(pixels[..., None], labels.astype(np.int64), tuple("0123456789"))


def test_a_classifier_learns_and_is_judged_by_pictures_that_it_has_not_seen(digits):
    classifier = trained_classifier(digits, 28, QUICK)
    assert (classifier.learnt_from, classifier.held_out) == (540, 60)
    assert classifier.accuracy > 0.9
    found = classifier.classes_of(digits.pixels)
    assert (found == digits.labels).mean() > 0.9


def test_labels_that_mean_nothing_cannot_be_learnt_so_the_accuracy_is_that_of_guessing(digits):
    shuffled = np.random.default_rng(1).permutation(digits.labels)
    assert trained_classifier(replace(digits, labels=shuffled), 28, QUICK).accuracy < 0.4


def test_the_same_pictures_and_settings_give_the_same_classifier(digits, tmp_path, monkeypatch):
    weights = []
    for place in "ab":
        monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / place))
        torch.manual_seed(ord(place))
        before = torch.get_rng_state()
        network = trained_classifier(digits, 28, replace(QUICK, images=1_000)).network
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([p.flatten() for p in network.state_dict().values()]))
    assert torch.equal(*weights)


def test_a_classifier_is_kept_by_what_it_learnt_from_and_how(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path))
    quick = replace(QUICK, images=500)
    shown = []

    def ask(pictures=digits, settings=quick):
        shown.clear()
        classifier = trained_classifier(pictures, 28, settings, lambda done, _: shown.append(done))
        return classifier, bool(shown)

    first, learnt = ask()
    assert learnt
    again, learnt = ask()
    assert not learnt
    assert again.accuracy == first.accuracy
    assert np.array_equal(again.classes_of(digits.pixels), first.classes_of(digits.pixels))
    for other in ({"width": 9}, {"flip": True}, {"seed": 1}, {"images": 600}):
        assert ask(settings=replace(quick, **other))[1]
    touched = digits.pixels.copy()
    touched[3, 4, 5] ^= 1
    assert ask(replace(digits, pixels=touched))[1]
    assert len(list((tmp_path / "classifiers").iterdir())) == 6


@pytest.mark.parametrize(("size", "stored", "channels"), [(32, 36, 3), (48, 48, 4), (128, 128, 3)])
def test_pictures_of_any_size_and_colour_can_be_learnt_from(size, stored, channels):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pixels = rng.integers(0, 100, (80, stored, stored, channels), np.uint8)
    pixels[labels == 1, ..., 0] += 150
    pictures = ImageData(pixels, labels.astype(np.int64), ("dark", "bright"))
    settings = ClassifierSettings(width=4, images=3_000, flip=True)
    classifier = trained_classifier(pictures, size, settings)
    assert classifier.accuracy == 1


def test_pictures_without_classes_or_too_few_are_refused(digits):
    with pytest.raises(QualityError, match="no classes"):
        trained_classifier(replace(digits, labels=None, class_names=()), 28, QUICK)
    few = replace(digits, pixels=digits.pixels[:5], labels=digits.labels[:5])
    with pytest.raises(QualityError, match="5 pictures are too few"):
        trained_classifier(few, 28, QUICK)
