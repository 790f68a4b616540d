from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import write_models
from training.latent.differentiable.graph import (
    GraphNotDifferentiable,
    differentiable_graph,
)
from training.latent.differentiable.rounding import without_rounding

MODELS = Path(__file__).parents[4] / "models"
# The latent tools work on images; sounds are rounded otherwise.
GRAPHS = sorted(
    path for path in MODELS.glob("*/*/*.onnx") if read_manifest(path.parent).audio is None
)
PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def _feeds(path: Path, names: list[str], rows: int) -> dict[str, np.ndarray]:
    model = Model(path.parent, Provider.CPU, PLAN)
    feeds = model.feeds(range(rows))
    if "w" in names:
        feeds["w"] = model.styles(range(rows))
    if {"image", "reconstruction", "score"} & set(names) and "image" not in feeds:
        feeds["image"] = model.generate(range(rows))
        feeds["reconstruction"] = feeds["image"][::-1].copy()
    return {name: feeds[name] for name in names}


def _quiet_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options)


@pytest.mark.parametrize("path", GRAPHS, ids=[f"{p.parts[-3]}-{p.stem}" for p in GRAPHS])
def test_equals_onnx_runtime_for_every_shipped_graph(path: Path) -> None:
    graph = differentiable_graph(path)
    feeds = _feeds(path, list(graph.inputs), 2)
    session = _quiet_session(without_rounding(onnx.load(path)).SerializeToString())
    expected = dict(zip(graph.outputs, session.run(list(graph.outputs), feeds), strict=True))

    with torch.no_grad():
        outputs = graph(**{name: torch.from_numpy(feed) for name, feed in feeds.items()})

    for name, right in expected.items():
        assert outputs[name].dtype == torch.float32
        scale = 255 if name == "pixels" else max(1, float(np.abs(right).max()))
        np.testing.assert_allclose(outputs[name].numpy() / scale, right / scale, atol=1e-4)


def test_rounds_on_request(tmp_path: Path) -> None:
    write_models(tmp_path)
    path = tmp_path / "painted" / "1" / "synthesis.onnx"
    feeds = _feeds(path, ["w"], 3)

    outputs = differentiable_graph(path, rounded=True)(w=torch.from_numpy(feeds["w"]))

    (expected,) = _quiet_session(path.read_bytes()).run(None, feeds)
    assert outputs["pixels"].dtype == torch.uint8
    assert np.abs(outputs["pixels"].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["painted/1/synthesis.onnx", "cut/1/generator.onnx"])
def test_gradients_equal_finite_differences(name: str, tmp_path: Path) -> None:
    write_models(tmp_path)
    path = tmp_path / name
    graph = differentiable_graph(path)
    feeds = {key: torch.from_numpy(f) for key, f in _feeds(path, list(graph.inputs), 2).items()}
    latent = "w" if "w" in feeds else "z"
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(feeds[latent].shape, generator=random)
    weights = torch.randn(feeds[latent].shape[0], 24, 24, 3, generator=random)

    def objective(step: float) -> torch.Tensor:
        moved = feeds[latent] + step * direction
        return (graph(**{**feeds, latent: moved})["pixels"].double() * weights).sum()

    feeds[latent] = feeds[latent].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(0.0), feeds[latent])
    with torch.no_grad():
        difference = (objective(1e-3) - objective(-1e-3)) / 2e-3
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-2)
    assert gradient.abs().sum(tuple(range(1, gradient.dim()))).min() > 0


def test_gradients_of_a_shipped_style_generator_equal_finite_differences() -> None:
    path = MODELS / "stylegan2-flowers" / "1" / "synthesis.onnx"
    graph = differentiable_graph(path).double()
    w = torch.from_numpy(_feeds(path, ["w"], 1)["w"]).double().requires_grad_()
    direction = torch.randn(w.shape, generator=torch.Generator().manual_seed(0)).double()

    (gradient,) = torch.autograd.grad(graph(w=w)["pixels"].mean(), w)

    with torch.no_grad():
        forward, backward = (
            graph(w=w + step * direction)["pixels"].mean() for step in (1e-6, -1e-6)
        )
    expected = ((forward - backward) / 2e-6).item()
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4)


def test_weights_have_no_gradients() -> None:
    graph = differentiable_graph(MODELS / "gan-mnist" / "1" / "generator.onnx")
    assert not list(graph.parameters())
    assert not any(each.requires_grad for each in graph.buffers())


def test_computes_constants_once_at_load(tmp_path: Path) -> None:
    two, three = (numpy_helper.from_array(np.float32(v)) for v in (2, 3))
    path = _save(
        tmp_path,
        [
            helper.make_node("Constant", [], ["two"], value=two),
            helper.make_node("Constant", [], ["three"], value=three),
            helper.make_node("Mul", ["two", "three"], ["six"]),
            helper.make_node("Add", ["x", "six"], ["y"]),
        ],
    )
    graph = differentiable_graph(path)
    assert [each.item() for each in graph.buffers()] == [6.0]
    assert graph(x=torch.ones(2))["y"].tolist() == [7.0, 7.0]


def test_runs_rows_in_a_scan_without_rounding(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["row", "factor"], ["product"]),
            helper.make_node("Max", ["product", "zero"], ["least"]),
            helper.make_node("Add", ["least", "half"], ["shifted"]),
            helper.make_node("Floor", ["shifted"], ["level"]),
            helper.make_node("Cast", ["level"], ["one"], to=TensorProto.UINT8),
        ],
        "body",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("one", TensorProto.UINT8, [2])],
        [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("half", 0.5))],
    )
    scan = helper.make_node("Scan", ["x"], ["pixels"], num_scan_inputs=1, body=body)
    factor = [numpy_helper.from_array(np.float32(3), "factor")]
    path = _save(tmp_path, [scan], factor, output=("pixels", TensorProto.UINT8))
    x = torch.tensor([[0.5, -1.0], [2.0, 0.1]], requires_grad=True)

    pixels = differentiable_graph(path)(x=x)["pixels"]

    torch.testing.assert_close(pixels, 3 * x)
    assert torch.autograd.grad(pixels.sum(), x)[0].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    rounded = differentiable_graph(path, rounded=True)(x=x)["pixels"]
    assert rounded.tolist() == [[2, 0], [6, 0]]


@pytest.mark.parametrize(("condition", "expected"), [(True, 2.0), (False, -1.0)])
def test_runs_one_branch_of_a_condition(condition: bool, expected: float, tmp_path: Path) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["x", "one"], ["result"])
        output = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
        one = numpy_helper.from_array(np.float32(1), "one")
        return helper.make_graph([node], operator, [], [output], [one])

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("Add"), else_branch=branch("Sub")
    )
    path = _save(tmp_path, [node], [numpy_helper.from_array(np.array(condition), "c")])
    x = torch.tensor([1.0 if condition else 0.0])
    assert differentiable_graph(path)(x=x)["y"].tolist() == [expected]


def test_names_the_file_and_an_unknown_operator(tmp_path: Path) -> None:
    path = _save(tmp_path, [helper.make_node("Hardmax", ["x"], ["y"])])
    with pytest.raises(GraphNotDifferentiable, match=r"graph\.onnx: the operator Hardmax"):
        differentiable_graph(path)


def test_refuses_a_random_graph(tmp_path: Path) -> None:
    path = _save(tmp_path, [helper.make_node("RandomNormalLike", ["x"], ["y"])])
    with pytest.raises(GraphNotDifferentiable, match="differs between runs"):
        differentiable_graph(path)


def test_refuses_a_file_that_is_not_a_graph(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(GraphNotDifferentiable, match=r"text\.onnx"):
        differentiable_graph(tmp_path / "text.onnx")


def test_names_the_operator_that_fails(tmp_path: Path) -> None:
    shape = [numpy_helper.from_array(np.array([7]), "shape")]
    path = _save(tmp_path, [helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape_3")], shape)
    with pytest.raises(GraphNotDifferentiable, match=r"Reshape \(reshape_3\)"):
        differentiable_graph(path)(x=torch.ones(2))


def test_requires_all_inputs() -> None:
    graph = differentiable_graph(MODELS / "gan-mnist" / "1" / "generator.onnx")
    with pytest.raises(ValueError, match="expected the inputs z"):
        graph(w=torch.zeros(1, 100))


def _save(folder: Path, nodes, weights=(), output=("y", TensorProto.FLOAT)) -> Path:
    """Write a graph with the input x."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(*output, None)],
        weights,
    )
    path = folder / "graph.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path
