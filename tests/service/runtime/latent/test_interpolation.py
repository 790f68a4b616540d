import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.latent.interpolation import Interpolation, between
from service.runtime.latent.sources import LatentSource, feeds
from service.runtime.models.manifest import read_manifest
from tests.support.drawn_models import LAYERS, W, write_models

vectors = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(
    lambda values: np.array(values, np.float32)
)
walks = st.builds(
    lambda seeds, extra, loop: Interpolation(
        tuple(map(LatentSource, seeds)), len(seeds) + extra, loop=loop, space="z", path="linear"
    ),
    st.lists(st.integers(0, 99), min_size=2, max_size=6),
    st.integers(0, 40),
    st.booleans(),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    return read_manifest(models / "cut" / "1")


@given(walk=walks)
def test_frames_are_evenly_spaced(walk):
    count = len(walk.keys)
    places = []
    for frame in range(walk.frames):
        start, end, fraction = walk.position(frame)
        assert 0 <= fraction < 1
        assert end == ((start + 1) % count if fraction else start)
        places.append(start + fraction)
    segments = count if walk.loop else count - 1
    step = segments / (walk.frames if walk.loop else walk.frames - 1)
    np.testing.assert_allclose(places, step * np.arange(walk.frames), atol=1e-9)
    assert places[0] == 0
    if not walk.loop:
        assert places[-1] == count - 1


@given(
    start=vectors,
    end=vectors,
    fraction=st.floats(0, 1),
    path=st.sampled_from(["linear", "spherical"]),
)
def test_between_is_exact_at_start_and_finite(start, end, fraction, path):
    point = between(start, end, fraction, path)
    assert point.dtype == np.float32
    assert np.isfinite(point).all()
    np.testing.assert_array_equal(between(start, end, 0.0, path), start)
    np.testing.assert_allclose(between(start, end, 1.0, path), end, atol=1e-4)
    longest = max(np.linalg.norm(start), np.linalg.norm(end))
    assert np.linalg.norm(point) <= longest + 1e-3


def test_spherical_path_keeps_norm_and_angular_speed():
    start, end = np.array([3, 0], np.float32), np.array([0, 3], np.float32)
    points = [between(start, end, fraction, "spherical") for fraction in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3, rtol=1e-6)
    angles = [np.degrees(np.arctan2(y, x)) for x, y in points]
    np.testing.assert_allclose(angles, [22.5, 45, 67.5], rtol=1e-5)
    line = between(start, end, 0.5, "linear")
    np.testing.assert_allclose(np.linalg.norm(line), 3 / 2**0.5, rtol=1e-6)


def test_spherical_path_keeps_norm_of_normal_latents():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 512)).astype(np.float32)
    assert np.linalg.norm(between(start, end, 0.5, "spherical")) > 21
    assert np.linalg.norm(between(start, end, 0.5, "linear")) < 18


def test_interpolates_class_and_truncation(manifest):
    keys = (
        LatentSource(1, classes={0: 1.0}, truncation=1.0),
        LatentSource(2, classes={2: 1.0}, truncation=0.5),
    )
    walk = Interpolation(keys, 5, loop=False, space="z", path="spherical")
    fed = walk.feeds([0, 2, 4], manifest)
    np.testing.assert_allclose(fed["class_weights"], [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]])
    np.testing.assert_allclose(fed["truncation"], [1, 0.75, 0.5])
    latents = feeds(keys, manifest)["z"]
    np.testing.assert_array_equal(fed["z"][[0, 2]], latents)


def test_interpolates_styles_per_layer():
    w = np.random.default_rng(0).normal(size=(2, LAYERS, W)).astype(np.float32)
    walk = Interpolation(
        (LatentSource(1), LatentSource(2)), 3, loop=False, space="w", path="spherical"
    )
    middle = walk.styles(w, [1])[0]
    for layer in range(LAYERS):
        np.testing.assert_allclose(
            middle[layer], between(w[0, layer], w[1, layer], 0.5, "spherical"), rtol=1e-5
        )


def test_parameters_round_trip(manifest):
    keys = (
        LatentSource(1, classes={0: 1.0}, truncation=1.0),
        LatentSource(z=np.ones(16, np.float32)),
    )
    walk = Interpolation(keys, 9, loop=True, space="z", path="linear")
    parsed = Interpolation.from_parameters(
        json.loads(json.dumps(walk.parameters(manifest))), manifest
    )
    assert [key.key for key in parsed.keys] == [key.key for key in keys]
    assert (parsed.frames, parsed.loop, parsed.space, parsed.path) == (9, True, "z", "linear")
    parameters = walk.frame_parameters(8, manifest)
    assert parameters["from"] == keys[1].parameters(manifest)
    assert parameters["to"] == keys[0].parameters(manifest)
    assert parameters["at"] == pytest.approx(7 / 9)
