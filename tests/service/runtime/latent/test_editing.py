"""Moves of latents along directions."""

import numpy as np
import pytest

from service.runtime.generation import edit_plan, execute, image_plan
from service.runtime.latent.editing import DirectionsChanged, Edit, Editing, move_styles
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import BAND
from tests.support.latent_models import write_directions, write_latent_models


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


@pytest.fixture(scope="module")
def movable(load):
    return load("movable")


def edited(model, sources, edits):
    plan = edit_plan(model.manifest, sources, edits, model.direction_vectors)
    moved = execute(plan, model.run)
    return moved, execute(image_plan(model.manifest, moved), model.run)


def test_moves_the_layers_of_a_direction_by_multiples_of_its_vector(movable):
    w, vector = movable.styles([1, 2]), movable.direction_vectors["bright"]
    edits = [Edit({"bright": 2.0}), Edit({"bright": -0.5})]
    moved = move_styles(w, edits, movable.manifest, movable.direction_vectors)
    np.testing.assert_allclose(moved[0, :2] - w[0, :2], [2 * vector] * 2, atol=1e-6)
    np.testing.assert_allclose(moved[1, :2] - w[1, :2], [-0.5 * vector] * 2, atol=1e-6)
    np.testing.assert_array_equal(moved[:, 2:], w[:, 2:])


def test_only_the_bands_of_the_layers_change(movable):
    _, (image,) = edited(movable, [LatentSource(7)], [Edit({"bright": 3.0})])
    (before,) = movable.generate([7])
    assert (image[: 2 * BAND] != before[: 2 * BAND]).any()
    np.testing.assert_array_equal(image[2 * BAND :], before[2 * BAND :])


def test_layers_override_those_of_the_direction_with_weights(movable):
    w, vector = movable.styles([1]), movable.direction_vectors["bright"]
    edit = Edit({"bright": 2.0}, {3: 1.0, 5: 0.25})
    (moved,) = move_styles(w, [edit], movable.manifest, movable.direction_vectors)
    np.testing.assert_allclose(moved[3] - w[0, 3], 2 * vector, atol=1e-6)
    np.testing.assert_allclose(moved[5] - w[0, 5], vector / 2, atol=1e-6)
    np.testing.assert_array_equal(moved[[0, 1, 2, 4]], w[0, [0, 1, 2, 4]])


def test_zero_is_the_image_itself(movable, load):
    _, images = edited(movable, [LatentSource(3)], [Edit({"bright": 0.0, "turn": 0.0})])
    np.testing.assert_array_equal(images, movable.generate([3]))
    model = load("movable-classes")
    _, images = edited(model, [LatentSource(4, classes={1: 1.0})], [Edit({"turn": 0.0})])
    np.testing.assert_array_equal(images, model.generate([4], [1]))


def test_a_direction_of_z_moves_the_latent_before_the_mapping(movable):
    z = movable.feeds([5])["z"]
    moved = LatentSource(z=z[0] + np.float32(1.5) * movable.direction_vectors["turn"])
    expected = execute(image_plan(movable.manifest, [moved]), movable.run)
    _, images = edited(movable, [LatentSource(5)], [Edit({"turn": 1.5})])
    np.testing.assert_array_equal(images, expected)
    with pytest.raises(ValueError, match="turn is a direction of z"):
        edited(movable, [LatentSource(w=movable.styles([1])[0])], [Edit({"turn": 1.5})])


def test_edits_without_styles_keep_the_class(load):
    model = load("movable-classes")
    (moved,), (image,) = edited(model, [LatentSource(4, classes={2: 1.0})], [Edit({"turn": 2.0})])
    assert moved.classes == {2: 1.0}
    z = model.feeds([4])["z"] + np.float32(2.0) * model.direction_vectors["turn"]
    feeds = {"z": z, "class_index": np.array([2])}
    np.testing.assert_array_equal(image, model.run("generator", feeds)["pixels"][0])


def test_steps_make_strips_and_grids():
    seeds = (LatentSource(1), LatentSource(2))
    strip = Editing(seeds, {"a": (-1.0, 1.0, 2.0), "b": 0.5}, "0" * 64)
    assert strip.shape == (2, 3)
    assert [(source.seed, dict(edit.amounts)) for source, edit in strip.items()] == [
        (seed, {"a": amount, "b": 0.5}) for seed in (1, 2) for amount in (-1.0, 1.0, 2.0)
    ]
    grid = Editing(seeds[:1], {"a": (-1.0, 1.0), "b": (3.0, 4.0, 5.0)}, "0" * 64)
    assert grid.shape == (2, 3)
    assert [tuple(edit.amounts.values()) for _, edit in grid.items()] == [
        (a, b) for a in (-1.0, 1.0) for b in (3.0, 4.0, 5.0)
    ]


def test_parameters_are_read_back(movable):
    manifest = movable.manifest
    sha256 = manifest.directions.sha256
    for layers in (None, {1: 1.0, 2: 1.0}, {1: 0.5}):
        editing = Editing((LatentSource(1),), {"bright": (1.0, 2.0), "warm": 3.0}, sha256, layers)
        again = Editing.from_parameters(editing.grid_parameters(manifest), manifest)
        assert (again.amounts, again.layers) == (editing.amounts, layers)
        assert [source.seed for source in again.sources] == [1]
        source, edit = next(iter(editing.items()))
        again = Editing.from_parameters(editing.parameters(source, edit, manifest), manifest)
        assert next(iter(again.items()))[1] == edit


def test_parameters_of_other_directions_are_rejected(tmp_path):
    write_latent_models(tmp_path)
    folder = tmp_path / "movable" / "1"
    before = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 64)).manifest
    editing = Editing((LatentSource(1),), {"bright": 1.0}, before.directions.sha256)
    parameters = editing.grid_parameters(before)
    write_directions(folder, seed=99)
    after = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 64)).manifest
    assert after.digest == before.digest
    with pytest.raises(DirectionsChanged, match=r"made with the directions .* of movable"):
        Editing.from_parameters(parameters, after)
    with pytest.raises(DirectionsChanged, match="now has none"):
        Editing.from_parameters(parameters, after.model_copy(update={"directions": None}))
