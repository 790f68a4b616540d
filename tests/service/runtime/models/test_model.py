import json
import shutil

import numpy as np
import pytest

from service.runtime.models.manifest import MANIFEST_FILE, ManifestError
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import Model, ModelFailed
from service.runtime.models.parts.additions import DIRECTIONS_FILE
from service.runtime.onnx.sessions import ExecutionPlan, GraphError, Provider
from tests.support.drawn_models import BAND, GROUPS, LAYERS, SIZE, W
from tests.support.latent_models import write_movable
from tests.support.tiny_recipes import TINY

PLANS = [ExecutionPlan(1, threads, 64) for threads in (1, 2)]


@pytest.mark.parametrize("name", TINY)
def test_batch_equals_single_rows_for_any_threads(repository, name):
    seeds = list(range(40))
    expected = None
    for plan in PLANS:
        model = Model(repository / name / "1", Provider.CPU, plan)
        rows = np.concatenate([model.generate([seed]) for seed in seeds])
        for size in (1, 2, 7, 32, 40):
            batches = [model.generate(seeds[i : i + size]) for i in range(0, len(seeds), size)]
            np.testing.assert_array_equal(np.concatenate(batches), rows)
        expected = rows if expected is None else expected
        np.testing.assert_array_equal(rows, expected)


def test_lone_batch_uses_more_threads_with_equal_output(drawn_repository):
    model, other = (
        Model(drawn_repository / "painted" / "1", Provider.CPU, ExecutionPlan(1, 1, 64, alone=n))
        for n in (2, 0)
    )
    feeds = model.feeds(range(9))
    expected = other.run("generator", feeds)["pixels"]
    for alone in (True, False):
        np.testing.assert_array_equal(
            model.run("generator", feeds, alone=alone)["pixels"], expected
        )
    assert model.alone is not model.sessions
    assert other.alone is other.sessions


def test_default_classes_cycle_with_the_seed(repository):
    model = Model(repository / "cgan-fashion" / "1", Provider.CPU, PLANS[0])
    assert model.classes_of([0, 9, 10, 25]) == [0, 9, 0, 5]
    np.testing.assert_array_equal(model.generate([25]), model.generate([25], [5]))
    assert not np.array_equal(model.generate([25], [5]), model.generate([25], [6]))
    unconditional = Model(repository / "gan-mnist" / "1", Provider.CPU, PLANS[0])
    assert unconditional.classes_of([1]) is None


@pytest.mark.parametrize("name", TINY)
def test_seeds_give_different_images(repository, name):
    model = Model(repository / name / "1", Provider.CPU, PLANS[0])
    pixels = model.generate(range(20))
    assert len(np.unique(pixels.reshape(20, -1), axis=0)) == 20


DRAWN = ["painted", "painted-classes", "cut"]


@pytest.fixture
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, PLANS[0])


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("plan", PLANS)
def test_batch_equals_single_rows_with_styles_and_truncation(drawn_repository, name, plan):
    model = Model(drawn_repository / name / "1", Provider.CPU, plan)
    # Models without classes or truncation ignore them.
    inputs = [(seed, seed % 3, seed / 40) for seed in range(40)]
    rows = np.concatenate([model.generate([s], [c], [t]) for s, c, t in inputs])
    for size in (2, 7, 32, 40):
        batches = [
            model.generate(*zip(*inputs[i : i + size], strict=True)) for i in range(0, 40, size)
        ]
        np.testing.assert_array_equal(np.concatenate(batches), rows)
    if model.manifest.styles:
        w = model.styles(range(40))
        np.testing.assert_array_equal(w, np.concatenate([model.styles([s]) for s in range(40)]))
        pixels = model.synthesize(w)
        np.testing.assert_array_equal(
            pixels, np.concatenate([model.synthesize(row[None]) for row in w])
        )


def test_synthesis_of_styles_equals_generate(load):
    model = load("painted")
    w = model.styles([1, 2, 3])
    assert (w.shape, w.dtype) == ((3, LAYERS, W), np.float32)
    np.testing.assert_array_equal(model.synthesize(w), model.generate([1, 2, 3]))
    with pytest.raises(ValueError, match=rf"\[N, {LAYERS}, {W}\]"):
        model.synthesize(w[:, 1:])


def test_layer_style_changes_its_layer(load):
    model = load("painted")
    w, other = model.styles([1, 2])
    before = model.synthesize(w[None])[0]
    for layer in range(LAYERS):
        changed = w.copy()
        changed[layer] = other[layer]
        differs = (model.synthesize(changed[None])[0] != before).any(axis=(1, 2))
        assert set(np.flatnonzero(differs)) <= set(range(layer * BAND, (layer + 1) * BAND))
        assert differs.any()


@pytest.mark.parametrize("name", ["painted-classes", "cut"])
def test_truncation_reduces_variation(load, name):
    model = load(name)
    seeds, classes = list(range(8)), [1] * 8
    spreads = []
    for truncation in (0.0, 0.5, 1.0):
        pixels = model.generate(seeds, classes, [truncation] * 8).astype(float)
        spreads.append(pixels.std(axis=0).mean())
    assert spreads[0] == 0 < spreads[1] < spreads[2]
    np.testing.assert_array_equal(
        model.generate(seeds, classes), model.generate(seeds, classes, [0.7] * 8)
    )


def test_styles_and_truncation_are_optional(load):
    model = load("cut")
    for call in (lambda: model.styles([1]), lambda: model.synthesize(np.zeros((1, LAYERS, W)))):
        with pytest.raises(ValueError, match="cut has no styles"):
            call()
    assert load("painted").truncations_of([1, 2]) is None
    assert model.truncations_of([1, 2]) == [0.7, 0.7]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["styles"].update(dimension=W + 1), rf"mapping returned float32 \[1, {LAYERS}"),
        (lambda m: m["styles"]["layers"].pop(), rf"the manifest expects float32 \[1, {LAYERS - 1}"),
        (lambda m: m["image"].update(width=SIZE * 2), "synthesis returned uint8"),
    ],
)
def test_rejects_graphs_with_other_style_shapes(drawn_repository, tmp_path, change, reason):
    folder = shutil.copytree(drawn_repository / "painted" / "1", tmp_path / "1")
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match=reason):
        Model(folder, Provider.CPU, PLANS[0])


def test_style_groups_contain_their_layers(load):
    groups = load("painted").manifest.styles.groups
    assert groups == {"coarse": (0, 1), "middle": (2, 3), "fine": (4, 5)}
    assert sum(map(len, groups.values())) == len(GROUPS)


def test_damaged_directions_are_an_error_at_load(tmp_path):
    write_movable(tmp_path / "movable" / "1")
    np.savez(tmp_path / "movable" / "1" / DIRECTIONS_FILE, bright=np.ones(3, np.float32))
    with pytest.raises(ManifestError, match=r"directions\.npz differs from the manifest"):
        Model(tmp_path / "movable" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def test_directions_do_not_load_a_model_with_a_memory_budget(tmp_path):
    folder = tmp_path / "movable" / "1"
    write_movable(folder)
    plan, budget = ExecutionPlan(1, 1, 64), MemoryBudget(2**30)
    model = Model(folder, Provider.CPU, plan, budget)
    assert list(model.direction_vectors) == ["bright", "warm", "turn"]
    assert not model.loaded
    (folder / DIRECTIONS_FILE).write_bytes(b"damaged")
    with pytest.raises(ModelFailed, match=r"directions\.npz differs from the manifest"):
        _ = Model(folder, Provider.CPU, plan, budget).direction_vectors


def test_roles_of_one_digest_are_told_apart(tmp_path, drawn_repository):
    write_movable(tmp_path / "movable" / "1", encoder_step=0.25)
    other = Model(tmp_path / "movable" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
    model = Model(drawn_repository / "movable" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
    assert model.digest_of("synthesis") == other.digest_of("synthesis")
    assert model.digest_of("encoder") != other.digest_of("encoder")
