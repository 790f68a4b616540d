"""Inversion: passes of an encoder, and the choice of the best."""

import numpy as np
import pytest

from service.runtime.generation import execute, inversion_plan
from service.runtime.latent.inversion import (
    InversionFailed,
    mean_squared_errors,
    peak_signal_to_noise,
)
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.latent_models import PASSES


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def test_distances_are_those_of_values_from_0_to_1():
    black, white = np.zeros((2, 3, 3, 1), np.uint8), np.full((2, 3, 3, 1), 255, np.uint8)
    np.testing.assert_array_equal(mean_squared_errors(black, white), [1.0, 1.0])
    assert peak_signal_to_noise(0.001) == pytest.approx(30.0)
    assert peak_signal_to_noise(0.0) is None


def test_every_pass_gets_closer_and_rows_are_independent(load):
    model = load("movable")
    images = model.generate([1, 2, 3])
    roles = []

    def run(role, feeds):
        roles.append((role, len(next(iter(feeds.values())))))
        return model.run(role, feeds)

    found = execute(inversion_plan(model.manifest, images), run)
    # The start is the same for all images, and is generated once.
    assert roles == [("synthesis", 1), *[("encoder", 3), ("synthesis", 3)] * PASSES]
    assert [each.passed for each in found] == [PASSES] * 3
    (alone,) = execute(inversion_plan(model.manifest, images[1:2]), model.run)
    np.testing.assert_array_equal(alone.latent, found[1].latent)
    np.testing.assert_array_equal(model.synthesize(alone.latent[None])[0], alone.reconstruction)


def test_the_best_pass_is_kept(load):
    model = load("movable")
    images = model.generate([1])
    passes = 0

    def run(role, feeds):
        """Run a graph; from the third pass on, the encoder returns a bad latent."""
        nonlocal passes
        outputs = model.run(role, feeds)
        if role == "encoder":
            passes += 1
            if passes == 3:
                return {"new_w": outputs["new_w"] + 3}
            if passes > 3:
                return {"new_w": np.full_like(outputs["new_w"], np.nan)}
        return outputs

    (found,) = execute(inversion_plan(model.manifest, images), run)
    assert found.passed == 2
    error = mean_squared_errors(images, found.reconstruction[None])[0]
    assert found.mean_squared_error == pytest.approx(error)


def test_latents_that_are_never_finite_are_an_error(load):
    model = load("movable")

    def run(role, feeds):
        outputs = model.run(role, feeds)
        return {"new_w": outputs["new_w"] * np.nan} if role == "encoder" else outputs

    with pytest.raises(InversionFailed, match="not finite"):
        execute(inversion_plan(model.manifest, model.generate([1])), run)


def test_the_best_class_is_kept_for_each_image(load):
    model = load("movable-classes")
    images = model.generate([1, 2], [2, 1])
    found = execute(inversion_plan(model.manifest, images, [0, 1, 2]), model.run)
    assert [each.source.classes for each in found] == [{2: 1.0}, {1: 1.0}]
    assert [each.tried for each in found] == [3, 3]
    (given,) = execute(inversion_plan(model.manifest, images[:1], [0]), model.run)
    assert (given.source.classes, given.tried) == ({0: 1.0}, 0)
    assert given.mean_squared_error > 5 * found[0].mean_squared_error


def test_a_model_without_encoder_is_an_error(load):
    model = load("painted")
    with pytest.raises(ValueError, match="painted has no encoder"):
        execute(inversion_plan(model.manifest, model.generate([1])), model.run)
