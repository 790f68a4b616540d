"""SeFa and GANSpace on graphs whose directions are known."""

import numpy as np
import pytest

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import SIZE, GraphBuilder, Z, write_manifest
from training.latent.directions.components import (
    activation_components,
    principal_components,
    semantic_factors,
)

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=4)
RNG = np.random.default_rng(5)
# An orthogonal basis of z, whose first vectors the first layer of `model` amplifies most.
BASIS, _ = np.linalg.qr(RNG.normal(size=(Z, Z)))
GAINS = np.linspace(2, 0.1, Z)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "known" / "1"
    folder.mkdir(parents=True)
    builder = GraphBuilder(seed=4)
    first = builder.constant((BASIS * GAINS).astype(np.float32))
    features = builder.node("LeakyRelu", builder.node("MatMul", "z", first))
    weight = builder.weight(Z, SIZE * SIZE * 3)
    builder.add_pixels(builder.node("MatMul", features, weight), [-1, SIZE, SIZE, 3])
    graph = builder.save(folder / "generator.onnx", ["z"], ["pixels"])
    write_manifest(folder, {GENERATOR: graph}, ["z"])
    return Model(folder, Provider.CPU, PLAN)


def similarity(a, b) -> float:
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_semantic_factors_are_amplified_most(model):
    found = semantic_factors(model, (), 4)
    assert [each.number for each in found] == [1, 2, 3, 4]
    for i, each in enumerate(found):
        assert similarity(each.vector, BASIS[:, i]) > 0.999
        assert each.vector[np.argmax(np.abs(each.vector))] > 0
    shares = GAINS**2 / (GAINS**2).sum()
    np.testing.assert_allclose([each.share for each in found], shares[:4], rtol=1e-3)


def test_principal_components_have_the_largest_variance():
    latents = (RNG.normal(size=(4000, Z)) * GAINS) @ BASIS.T + 3
    found = principal_components(latents.astype(np.float32), 2)
    for i, each in enumerate(found):
        assert similarity(each.vector, BASIS[:, i]) > 0.95


@pytest.mark.parametrize("samples", [12, 4000], ids=["fewer samples than values", "more"])
def test_components_of_activations_are_regressed_to_z(model, samples):
    z = RNG.normal(size=(samples, Z)).astype(np.float32)
    found = activation_components(model, z, 2)
    assert len(found) == 2
    if samples == 4000:
        # The rectified activations are not exactly linear in z.
        assert similarity(found[0].vector, BASIS[:, :4] @ (BASIS[:, :4].T @ found[0].vector)) > 0.95
    np.testing.assert_array_equal(found[0].vector, activation_components(model, z, 2)[0].vector)
