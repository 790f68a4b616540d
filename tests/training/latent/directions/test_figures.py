"""Effect and drift, with random directions beside them."""

import numpy as np
import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import W
from training.latent.directions.figures import (
    FigureMeasurement,
    Layout,
    OtherClasses,
    View,
    other_classes,
)
from training.latent.directions.latents import draw, images

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=16)
LAYERS = tuple(range(6))


@pytest.fixture(scope="module")
def model(drawn_repository) -> Model:
    return Model(drawn_repository / "painted-classes" / "1", Provider.CPU, PLAN)


def view(pixels, network) -> View:
    return View(pixels, network.features(pixels))


def test_layout_ignores_brightness_and_contrast(model, small_network):
    pixels = images(model, draw(model, range(6)))
    before = view(pixels, small_network)
    assert Layout()(before, before) == pytest.approx(0, abs=1e-9)
    darker = view((pixels * 0.6 + 20).astype(np.uint8), small_network)
    moved = view(np.roll(pixels, 5, axis=2), small_network)
    assert (Layout()(before, darker) < 0.05).all()
    assert (Layout()(before, moved) > 0.3).all()


def test_drift_of_classes_counts_other_classes_only(model, small_network):
    drift = other_classes(model, small_network, [0, 1], 0, lambda *_: None)
    assert isinstance(drift, OtherClasses)
    assert drift.others == (2,)
    assert "192 of the model's own samples" in drift.title
    pixels = {i: images(model, draw(model, range(900, 930), [i])) for i in range(3)}
    views = {i: view(each, small_network) for i, each in pixels.items()}
    to_other = drift(views[0], views[2]).mean()
    assert drift(views[0], views[0]).max() == 0
    assert to_other > drift(views[0], views[1]).mean()


def test_figures_of_a_longer_step_are_larger(model, small_network):
    samples = draw(model, range(16))
    measurement = FigureMeasurement(model, samples, small_network, Layout())
    vector = np.zeros(W, np.float32)
    vector[0] = 0.3
    small = measurement.measure(vector, LAYERS, seed=0)
    large = measurement.measure(3 * vector, LAYERS, seed=0)
    assert 0 < small.effect < large.effect
    assert 0 < small.drift < large.drift
    assert 0 < small.random_effect < large.random_effect
    assert small.samples == 16
    assert small.feature_network == small_network.title
    assert small == measurement.measure(-vector, LAYERS, seed=0)


def test_fewer_layers_change_less(model, small_network):
    measurement = FigureMeasurement(model, draw(model, range(16)), small_network, Layout())
    vector = np.ones(W, np.float32)
    few = measurement.measure(vector, (5,), seed=0)
    assert few.effect < measurement.measure(vector, LAYERS, seed=0).effect
