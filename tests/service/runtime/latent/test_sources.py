import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.latent import seeds
from service.runtime.latent.sources import (
    LatentSource,
    as_w,
    as_z,
    decode_floats,
    draw_class,
    encode_floats,
    feeds,
)
from service.runtime.models.manifest import read_manifest
from tests.support.drawn_models import CLASSES, LAYERS, TRUNCATION, W, Z, write_models

floats = st.lists(st.floats(-100, 100, width=32), min_size=Z, max_size=Z)
weights = st.one_of(
    st.integers(0, 2).map(lambda index: {index: 1.0}),
    st.dictionaries(st.integers(0, 2), st.floats(0.01, 10), min_size=2),
)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    return {
        name: read_manifest(models / name / "1") for name in ("painted", "painted-classes", "cut")
    }


@st.composite
def sources(draw):
    kind = draw(st.sampled_from(["seed", "z", "w"]))
    if kind == "w":
        w = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(LAYERS, W))
        return LatentSource(w=w.astype(np.float32))
    conditions = {"classes": draw(weights), "truncation": draw(st.floats(0, 1.5))}
    if kind == "seed":
        return LatentSource(draw(st.integers(0, seeds.MAX_SEED)), **conditions)
    return LatentSource(z=np.array(draw(floats), np.float32), **conditions)


@given(source=sources())
def test_parameters_round_trip(manifests, source):
    manifest = manifests["painted-classes"]
    parameters = json.loads(json.dumps(source.parameters(manifest)))
    parsed = LatentSource.from_parameters(parameters, manifest)
    assert parsed.key == source.key


def test_rejects_unknown_classes(manifests):
    with pytest.raises(ValueError, match="painted-classes does not have all of the classes"):
        LatentSource.from_parameters({"seed": 1, "class": "cow"}, manifests["painted-classes"])


@given(values=st.lists(st.floats(allow_nan=False, width=32)))
def test_float_encoding_is_lossless(values):
    array = np.array(values, np.float32)
    assert decode_floats(encode_floats(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize("text", ["?", "AAA", "AAAA", "AAAAAAA=é"])
def test_rejects_invalid_float_encoding(text):
    with pytest.raises(ValueError, match=r"base64|4 bytes"):
        decode_floats(text)


def test_key_distinguishes_sources():
    z = np.arange(Z, dtype=np.float32)
    different = [
        LatentSource(1),
        LatentSource(2),
        LatentSource(z=z),
        LatentSource(z=-z),
        LatentSource(w=z[None]),
        LatentSource(1, classes={0: 1.0}),
        LatentSource(1, classes={1: 1.0}),
        LatentSource(1, classes={0: 0.5, 1: 0.5}),
        LatentSource(1, truncation=0.5),
        LatentSource(1, truncation=0.0),
    ]
    assert len({source.key for source in different}) == len(different)
    blends = LatentSource(1, classes={0: 0.5, 1: 0.5}), LatentSource(1, classes={1: 0.5, 0: 0.5})
    assert blends[0].key == blends[1].key


def test_feeds_keep_source_order(manifests):
    z = np.arange(Z, dtype=np.float32)
    rows = [
        LatentSource(5, classes={2: 1.0}, truncation=0.5),
        LatentSource(z=z, classes={0: 1.0}, truncation=0.25),
        LatentSource(9, classes={1: 1.0}),
    ]
    fed = feeds(rows, manifests["painted-classes"])
    seeded = seeds.draw([5, 9], Z)
    np.testing.assert_array_equal(fed["z"], [seeded[0], z, seeded[1]])
    np.testing.assert_array_equal(fed["class_index"], [2, 0, 1])
    expected = np.array([0.5, 0.25, TRUNCATION.default], np.float32)
    np.testing.assert_array_equal(fed["truncation"], expected)
    assert set(feeds([LatentSource(1)], manifests["painted"])) == {"z"}


def test_blend_needs_class_weights_input(manifests):
    rows = [LatentSource(1, classes={1: 1.0}), LatentSource(2, classes={0: 0.25, 2: 0.75})]
    fed = feeds(rows, manifests["cut"])
    assert fed["class_weights"].dtype == np.float32
    np.testing.assert_array_equal(fed["class_weights"], [[0, 1, 0], [0.25, 0, 0.75]])
    with pytest.raises(ValueError, match="painted-classes cannot blend"):
        feeds(rows, manifests["painted-classes"])


def test_draw_class_follows_weights_and_seed():
    weights = {0: 1.0, 2: 3.0}
    classes = [draw_class(weights, seed) for seed in range(4000)]
    assert classes == [draw_class({2: 3.0, 0: 1.0}, seed) for seed in range(4000)]
    assert set(classes) == {0, 2}
    # Four standard deviations.
    assert abs(classes.count(0) / 4000 - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert draw_class({1: 0.3}, 7) == 1


def test_drawn_class_is_independent_of_latent():
    first = seeds.draw(range(2000), 1)[:, 0]
    classes = np.array([draw_class({0: 1.0, 1: 1.0}, seed) for seed in range(2000)])
    assert abs(np.corrcoef(first, classes)[0, 1]) < 4 / 2000**0.5


def test_as_w_accepts_one_or_all_layers(manifests):
    manifest = manifests["painted"]
    style = np.arange(W, dtype=np.float32)
    assert as_w(style, manifest).shape == (LAYERS, W)
    assert (as_w(style, manifest) == style).all()
    each = np.arange(LAYERS * W, dtype=np.float32)
    np.testing.assert_array_equal(as_w(each, manifest), each.reshape(LAYERS, W))
    with pytest.raises(ValueError, match="expected 6×10 values, or 10 for all layers, got 11"):
        as_w(np.zeros(W + 1, np.float32), manifest)
    with pytest.raises(ValueError, match="cut has no styles"):
        as_w(style, manifests["cut"])
    with pytest.raises(ValueError, match="expected 16 values, got 3"):
        as_z(np.zeros(3, np.float32), manifest)


def test_manifest_lists_classes(manifests):
    assert manifests["cut"].classes == CLASSES
