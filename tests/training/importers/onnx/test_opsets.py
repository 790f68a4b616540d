"""Graphs of old and new opsets, formats and operator domains."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.latent import seeds
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.errors import ModelImportError
from training.importers.import_model import ImportTarget, import_model
from training.importers.onnx.conversion import OnnxFormat, convert_graph
from training.importers.onnx.ports import GraphOptions

W = np.random.default_rng(0).normal(size=(6, 75)).astype(np.float32)
SHAPE = np.array([-1, 5, 5, 3])


def write(folder, nodes, value, output, weights, *, opset, ir=8, domains=()):
    """Write a graph. Up to IR version 3, weights are inputs, too."""
    inputs = [helper.make_tensor_value_info(value[0], TensorProto.FLOAT, value[1])]
    if ir < 4:
        inputs += [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in weights.items()
        ]
    outputs = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    imports = [helper.make_opsetid(domain, 1) for domain in domains]
    if opset:
        imports.append(helper.make_opsetid("", opset))
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def imported(path, folder, **options):
    converted = convert_graph(path, GraphOptions(**options))
    written = import_model(path, OnnxFormat(), converted, ImportTarget(folder / "models", "m"))
    return converted, Model(written, Provider.CPU, ExecutionPlan(1, 1, 8))


def generator(folder, **options):
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["bright"]),
        helper.make_node("Reshape", ["bright", "shape"], ["shaped"]),
        helper.make_node("Tanh", ["shaped"], ["images"]),
    ]
    weights = {"w": W, "shape": SHAPE}
    return write(folder, nodes, ("z", ["N", 6]), ("images", ["N", 5, 5, 3]), weights, **options)


def expected_images(latents):
    levels = (np.tanh(latents @ W).reshape(-1, 5, 5, 3) + 1) * 127.5
    return np.floor(levels + 0.5).astype(int)


@pytest.mark.parametrize(
    ("opset", "ir"), [(6, 3), (7, 3), (8, 3), (8, 4), (9, 4), (13, 3), (17, 8), (22, 10), (26, 13)]
)
def test_imports_every_opset_that_onnx_runtime_runs(tmp_path, opset, ir):
    converted, model = imported(generator(tmp_path, opset=opset, ir=ir), tmp_path)
    assert converted.notes == (
        [f"The graph was converted from opset {opset} to 9."] if opset < 9 else []
    )
    z = seeds.draw([0, 5, 9], 6)
    assert np.abs(model.generate([0, 5, 9]).astype(int) - expected_images(z)).max() <= 1


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("domains", [(), ("com.microsoft",)])
def test_converts_old_upsampling(tmp_path, opset, domains):
    """The converter of ONNX does not know the operators of ONNX Runtime."""
    upsampled = [helper.make_node("Upsample", ["turned"], ["large"], scales=[1.0, 1.0, 2.0, 2.0])]
    if domains:
        upsampled.append(helper.make_node("Gelu", ["large"], ["mixed"], domain=domains[0]))
    last = "mixed" if domains else "large"
    nodes = [
        helper.make_node("Transpose", ["low"], ["turned"], perm=[0, 3, 1, 2]),
        *upsampled,
        helper.make_node("Transpose", [last], ["high"], perm=[0, 2, 3, 1]),
    ]
    path = write(
        tmp_path,
        nodes,
        ("low", [1, "H", "W", 3]),
        ("high", [1, "H2", "W2", 3]),
        {},
        opset=opset,
        ir=3,
        domains=domains,
    )
    converted, model = imported(path, tmp_path, range=(0, 255), layout="nhwc")
    assert f"converted from opset {opset} to 9" in " ".join(converted.notes)
    image = probe_images([0, 1], (9, 7), 3)
    output = model.run("generator", {"image": image})["pixels"]
    assert np.abs(output.astype(int) - image.repeat(2, 1).repeat(2, 2)).max() <= 1


def test_imports_operators_of_other_domains_only(tmp_path):
    nodes = [helper.make_node("FusedMatMul", ["z", "w"], ["images"], domain="com.microsoft")]
    path = write(
        tmp_path,
        nodes,
        ("z", ["N", 6]),
        ("images", ["N", 75]),
        {"w": W},
        opset=None,
        domains=("com.microsoft",),
    )
    _, model = imported(path, tmp_path, range=(-9, 9), layout="nhwc")
    expected = np.floor((seeds.draw([3], 6) @ W / 9 + 1) * 127.5 + 0.5).reshape(1, 5, 5, 3)
    assert np.abs(model.generate([3]) - expected).max() <= 1


def test_imports_graphs_that_onnx_runtime_has_optimized(tmp_path):
    kernel = np.ones((8, 3, 1, 1), np.float32) / 3
    back = np.ones((3, 8, 1, 1), np.float32) / 8
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("Conv", ["active", "back"], ["out"]),
    ]
    shape = [1, 3, "H", "W"]
    weights = {"kernel": kernel, "back": back}
    path = write(tmp_path, nodes, ("image", shape), ("out", shape), weights, opset=13)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    converted, model = imported(tmp_path / "optimized.onnx", tmp_path, range=(0, 1))
    has_layout = "nchwc" in {
        n.domain.rpartition(".")[2] for n in onnx.load(tmp_path / "optimized.onnx").graph.node
    }
    assert ("optimized the graph for the CPU" in " ".join(converted.notes)) == has_layout
    image = probe_images([0], (9, 7), 3)
    mean = image.astype(float).mean(-1, keepdims=True).repeat(3, -1)
    assert np.abs(model.run("generator", {"image": image})["pixels"] - mean).max() <= 1


@pytest.mark.parametrize(("opset", "ir"), [(99, 8), (17, 99)])
def test_says_that_a_graph_is_too_new(tmp_path, opset, ir):
    path = generator(tmp_path, opset=17)
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = opset, ir
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelImportError) as raised:
        convert_graph(path, GraphOptions())
    assert "onnxruntime_src" not in str(raised.value)
    assert str(max(opset, ir)) in str(raised.value)
