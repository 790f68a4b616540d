import numpy as np
import pytest

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.signatures import Tensor, signatures
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import LAYERS, SIZE, W, Z


@pytest.fixture(params=["painted", "painted-classes", "cut"])
def model(request, drawn_repository):
    return Model(drawn_repository / request.param / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


def test_graphs_match_their_signatures(model):
    rng = np.random.default_rng(0)
    for role, signature in signatures(model.manifest).items():
        feeds = {
            tensor.name: rng.uniform(0, 1, (3, *tensor.row)).astype(tensor.dtype)
            for tensor in signature.inputs
        }
        outputs = model.run(role, feeds)
        assert list(outputs) == [tensor.name for tensor in signature.outputs]
        for tensor in signature.outputs:
            assert outputs[tensor.name].shape == (3, *tensor.row)
            assert outputs[tensor.name].dtype == tensor.dtype
            assert outputs[tensor.name].nbytes == 3 * tensor.row_bytes


def test_style_model_has_three_signatures(drawn_repository):
    by_role = signatures(read_manifest(drawn_repository / "painted-classes" / "1"))
    assert list(by_role) == ["generator", "mapping", "synthesis"]
    names = {role: [tensor.name for tensor in by_role[role].inputs] for role in by_role}
    assert names["generator"] == names["mapping"] == ["z", "class_index", "truncation"]
    assert names["synthesis"] == ["w"]
    assert by_role["generator"].inputs[0].row == (Z,)
    assert by_role["synthesis"].inputs[0].row == (LAYERS, W)
    assert by_role["synthesis"].outputs == by_role["generator"].outputs
    assert by_role["generator"].outputs[0].row == (SIZE, SIZE, 3)


def test_out_of_range_values_are_reported():
    index = Tensor("class_index", np.dtype(np.int64), (), 0, 9)
    assert index.value_error(np.array([0, 9])) is None
    assert index.value_error(np.array([3, 10, -1])) == "expected 0 to 9, got 10"
    weights = Tensor("class_weights", np.dtype(np.float32), (3,), 0, 1)
    above = np.array([[0, 1, np.nextafter(np.float32(1), np.float32(2))]], np.float32)
    assert weights.value_error(above) == "expected 0 to 1, got 1.0000001"
    anything = Tensor("z", np.dtype(np.float32), (2,))
    assert anything.value_error(np.array([[1e38, -1e38]], np.float32)) is None
    for bad in (np.nan, np.inf, -np.inf):
        assert anything.value_error(np.array([[0, bad]], np.float32)) == "expected finite numbers"


def test_bound_rounded_up_by_float32_is_valid():
    truncation = Tensor("truncation", np.dtype(np.float32), (), 0.1, 0.3)
    bounds = np.array([0.1, 0.3], np.float32)
    assert float(bounds[0]) > 0.1
    assert truncation.value_error(bounds) is None
    above = np.nextafter(bounds, np.float32(9))
    assert truncation.value_error(above) == "expected 0.1 to 0.3, got 0.30000004"
