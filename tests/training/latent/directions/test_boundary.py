"""Boundaries in latent space from labels."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import BAND, SIZE, Z
from training.evaluation.features.networks import open_network
from training.latent.directions.boundary import (
    Boundary,
    attribute_boundary,
    class_boundary,
    latents_boundary,
    step_across,
)
from training.latent.directions.errors import DirectionsError
from training.latent.directions.latents import draw, images, moved, unit_vector
from training.latent.directions.linear_classifier import fit_classifier

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=16)
LAYERS = range(6)


@pytest.fixture(scope="module")
def conditional(drawn_repository) -> Model:
    """A model with styles and three classes."""
    return Model(drawn_repository / "painted-classes" / "1", Provider.CPU, PLAN)


@pytest.fixture(scope="module")
def brightness_classifier(tmp_path_factory):
    """Scores images: output 0 is their brightness, output 1 that of the first band."""
    path = tmp_path_factory.mktemp("classifier") / "brightness.onnx"
    weights = np.zeros((2, SIZE * SIZE * 3), np.float32)
    weights[0] = 1 / 255
    weights[1, : BAND * SIZE * 3] = 1 / 255
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Identity", ["flat"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", SIZE * SIZE * 3]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(weights.T), "weights")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return open_network(str(path))


def test_classifier_finds_the_boundary_of_shifted_clouds():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    centers = 4 * np.eye(3, 5)
    vectors = rng.normal(size=(600, 5)) + centers[labels]
    classifier = fit_classifier(vectors, labels, 3)
    assert classifier.accuracy(vectors, labels) > 0.95
    np.testing.assert_allclose(classifier.probabilities(vectors).sum(axis=1), 1)
    normal = classifier.normal(0, 2)
    expected = centers[2] - centers[0]
    assert normal @ expected / np.linalg.norm(normal) / np.linalg.norm(expected) > 0.95


def test_classes_of_the_model_are_separated(conditional):
    boundary = class_boundary(conditional, (0, 2), LAYERS, range(400), lambda *_: None)
    assert boundary.accuracy > 0.7  # Of random classes that overlap.
    assert boundary.held_out == 100
    first, last = (
        draw(conditional, range(1000, 1100), [side], truncated=False).flat(LAYERS)
        for side in (0, 2)
    )
    assert (first @ boundary.normal).mean() < (last @ boundary.normal).mean()


def test_z_does_not_depend_on_the_class(drawn_repository):
    model = Model(drawn_repository / "cut" / "1", Provider.CPU, PLAN)
    with pytest.raises(DirectionsError, match="z of cut does not depend on the class"):
        class_boundary(model, (0, 1), (), range(100), lambda *_: None)


def test_direction_of_an_attribute_raises_its_score(drawn_repository, brightness_classifier):
    model = Model(drawn_repository / "painted" / "1", Provider.CPU, PLAN)
    boundary = attribute_boundary(
        model, brightness_classifier, 0, LAYERS, range(400), None, lambda *_: None
    )
    assert boundary.accuracy > 0.8
    latents = draw(model, range(400)).flat(LAYERS)
    vector = unit_vector(step_across(boundary, latents), latents)
    samples = draw(model, range(500, 532))
    levels = [images(model, moved(samples, vector, LAYERS, step)).mean() for step in (-2, 0, 2)]
    assert levels[0] < levels[1] < levels[2]


def test_output_that_does_not_exist(drawn_repository, brightness_classifier):
    model = Model(drawn_repository / "painted" / "1", Provider.CPU, PLAN)
    with pytest.raises(DirectionsError, match="brightness has 2 outputs, numbered from 0"):
        attribute_boundary(
            model, brightness_classifier, 2, LAYERS, range(64), None, lambda *_: None
        )


def test_latents_of_two_sets_of_images():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(20, Z)), rng.normal(size=(50, Z))
    after[:, 3] += 5
    boundary = latents_boundary(before.astype(np.float32), after.astype(np.float32))
    assert np.argmax(np.abs(boundary.normal)) == 3
    assert boundary.normal[3] > 0
    assert boundary.accuracy > 0.8


def test_too_few_images_on_one_side():
    with pytest.raises(DirectionsError, match="at least 8 images on each side, got 3"):
        latents_boundary(np.zeros((3, Z), np.float32), np.zeros((30, Z), np.float32))


def test_step_across_a_boundary_follows_the_latents():
    rng = np.random.default_rng(0)
    # The second value is nearly determined by the first.
    first = rng.normal(size=(2000, 1))
    latents = np.hstack([first, first + 0.01 * rng.normal(size=(2000, 1))])
    boundary = Boundary(np.array([1.0, 0.0]), 1.0, 10)
    step = step_across(boundary, latents.astype(np.float32))
    assert step[1] / step[0] == pytest.approx(1, abs=0.01)
