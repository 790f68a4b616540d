"""The first linear layers of a graph, however their weights are written."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, LAYERS, SIZE, GraphBuilder, W, Z, write_manifest
from training.latent.directions.errors import DirectionsError
from training.latent.directions.first_layers import activations, first_layers, matrices

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=4)
WIDTH = 12


@pytest.fixture
def generator(tmp_path):
    """Builds a model without styles: `first` adds the nodes from z to features ``[N, WIDTH]``."""

    def build(first, inputs=("z",)):
        folder = tmp_path / "small" / "1"
        folder.mkdir(parents=True)
        builder = GraphBuilder(seed=4)
        features = builder.node("Tanh", first(builder))
        weight = builder.weight(WIDTH, SIZE * SIZE * 3)
        builder.add_pixels(builder.node("MatMul", features, weight), [-1, SIZE, SIZE, 3])
        graph = builder.save(folder / "generator.onnx", list(inputs), ["pixels"])
        write_manifest(folder, {GENERATOR: graph}, list(inputs))
        return Model(folder, Provider.CPU, PLAN)

    return build


WEIGHT = np.random.default_rng(0).normal(size=(Z, WIDTH)).astype(np.float32)


def test_matrices_of_style_layers_are_those_of_the_layers(drawn_repository):
    model = Model(drawn_repository / "painted" / "1", Provider.CPU, PLAN)
    graph = onnx.load(model.folder / "synthesis.onnx").graph
    weights = [
        numpy_helper.to_array(each) for each in graph.initializer if list(each.dims)[:1] == [W]
    ]
    layers = first_layers(model)
    assert len(layers.outputs) == len(weights) == LAYERS
    for at in (0, 3):
        (matrix,) = matrices(layers, model, [at])
        np.testing.assert_allclose(matrix, weights[at].T, atol=1e-5)
    assert len(matrices(layers, model, range(LAYERS))) == LAYERS


def plain(builder):
    return builder.node("MatMul", "z", builder.constant(WEIGHT))


def scaled(builder):
    # The equalized learning rate of StyleGAN: the weight is scaled in the graph.
    half = builder.constant(np.float32(0.5))
    weight = builder.node("Mul", builder.constant(2 * WEIGHT.T.copy()), half)
    return builder.node("Gemm", "z", weight, builder.constant(np.ones(WIDTH, np.float32)), transB=1)


def half_precision(builder):
    weight = builder.constant(WEIGHT.astype(np.float16))
    product = builder.node("MatMul", builder.node("Cast", "z", to=10), weight)
    return builder.node("Cast", product, to=1)


def convolution(builder):
    image = builder.node("Reshape", "z", builder.constant([-1, Z, 1, 1]))
    convolved = builder.node(
        "ConvTranspose", image, builder.constant(WEIGHT.reshape(Z, WIDTH // 4, 2, 2))
    )
    normalized = builder.node(
        "BatchNormalization",
        convolved,
        *(builder.constant(np.ones(WIDTH // 4, np.float32)) for _ in range(4)),
    )
    return builder.node("Flatten", normalized)


def shared(builder):
    # BigGAN: parts of z reach different layers.
    parts = [
        builder.node("Slice", "z", *(builder.constant([v]) for v in (start, stop, 1)))
        for start, stop in ((0, Z // 2), (Z // 2, Z))
    ]
    halves = np.split(WEIGHT, 2)
    products = [
        builder.node("MatMul", part, builder.constant(half))
        for part, half in zip(parts, halves, strict=True)
    ]
    return builder.node("Add", *products)


@pytest.mark.parametrize("first", [plain, scaled, half_precision, convolution])
def test_matrix_does_not_depend_on_how_a_weight_is_written(generator, first):
    model = generator(first)
    (matrix,) = matrices(first_layers(model), model)
    np.testing.assert_allclose(matrix, WEIGHT.T, atol=5e-3 if first is half_precision else 1e-5)


def test_parts_of_z_have_layers_of_their_own(generator):
    model = generator(shared)
    total = sum(each.T @ each for each in matrices(first_layers(model), model))
    expected = np.zeros((Z, Z))
    for part in (slice(0, Z // 2), slice(Z // 2, Z)):
        expected[part, part] = WEIGHT[part] @ WEIGHT[part].T
    np.testing.assert_allclose(total, expected, atol=1e-4)


def test_classes_beside_z_do_not_change_its_matrix(generator):
    def with_class(builder):
        both = builder.node("Concat", "z", "class_weights", axis=1)
        weight = np.concatenate([WEIGHT, np.full((len(CLASSES), WIDTH), 9, np.float32)])
        return builder.node("MatMul", both, builder.constant(weight))

    model = generator(with_class, ("z", "class_weights"))
    (matrix,) = matrices(first_layers(model), model)
    np.testing.assert_allclose(matrix, WEIGHT.T, atol=1e-4)


def test_normalization_of_z_keeps_its_directions(generator):
    def normalized(builder):
        # ProGAN divides z by its root mean square.
        square = builder.node("Mul", "z", "z")
        mean = builder.node("ReduceMean", square, builder.constant([1]))
        biased = builder.node("Add", mean, builder.constant(np.float32(1e-8)))
        root = builder.node("Sqrt", biased)
        return builder.node("MatMul", builder.node("Div", "z", root), builder.constant(WEIGHT))

    model = generator(normalized)
    (matrix,) = matrices(first_layers(model), model)
    scale = np.abs(matrix).max() / np.abs(WEIGHT).max()
    np.testing.assert_allclose(matrix / scale, WEIGHT.T, atol=1e-3)


def test_first_activation_follows_the_first_layer(generator):
    model = generator(plain)
    z = np.random.default_rng(1).normal(size=(70, Z)).astype(np.float32)
    found = activations(first_layers(model), model, z)
    np.testing.assert_allclose(found, np.tanh(z @ WEIGHT), atol=1e-5)


def test_graph_without_a_linear_layer_is_an_error(generator):
    def nonlinear(builder):
        bent = builder.node("Sin", "z")
        return builder.node("MatMul", bent, builder.constant(WEIGHT))

    with pytest.raises(DirectionsError, match=r"generator\.onnx: no linear layer takes z"):
        first_layers(generator(nonlinear))
