"""Every operator returns what ONNX Runtime returns."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from training.latent.differentiable.graph import differentiable_graph
from training.latent.differentiable.registry import operator_names


def _floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = _floats(2, 4, 6, 6)
POSITIVE = np.abs(X) + 0.5
UNIT = np.tanh(X)
MATRIX = _floats(3, 5)
UNARY = """
Abs Atan Ceil Cos Erf Exp Floor HardSwish Identity Mish Neg Reciprocal Relu Round Sigmoid Sign
Sin Softplus Softsign Tan Tanh Elu Celu Selu HardSigmoid LeakyRelu ThresholdedRelu Softmax
LogSoftmax Flatten Transpose Shape Size GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax
ReduceMin ReduceL1 ReduceL2 ReduceSum ReduceProd ReduceSumSquare ReduceLogSumExp ArgMax ArgMin
IsNaN Dropout
"""
# Operator, inputs, attributes. The first input is the input of the graph, the others are weights.
CASES: list[tuple[str, list, dict]] = [
    *((name, [X], {}) for name in UNARY.split()),
    *((name, [UNIT], {}) for name in ("Acos", "Asin", "Sinh", "Cosh")),
    *((name, [POSITIVE], {}) for name in ("Log", "Sqrt", "ReduceLogSum")),
    *(
        (name, [X, _floats(4, 1, 1, seed=1)], {})
        for name in (
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Max",
            "Min",
            "Sum",
            "Mean",
            "Greater",
            "Less",
            "LessOrEqual",
            "GreaterOrEqual",
            "PRelu",
        )
    ),
    ("Equal", [np.array([1, 2]), np.array([1, 3])], {}),
    *(
        (name, [np.array([True, True, False]), np.array([True, False, False])], {})
        for name in ("And", "Or", "Xor")
    ),
    ("Not", [np.array([True, False])], {}),
    ("Div", [np.array([7, -7]), np.array([2, 2])], {}),
    ("Mod", [np.array([7, -7]), np.array([3, 3])], {}),
    ("Mod", [X, np.float32(0.7)], {"fmod": 1}),
    ("Pow", [POSITIVE, np.float32(2.5)], {}),
    ("Pow", [POSITIVE, _floats(4, 1, 1)], {}),
    ("Where", [X > 0, X, np.float32(0)], {}),
    ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", [X, None, np.float32(0.5)], {}),
    ("Cast", [X], {"to": onnx.TensorProto.INT32}),
    ("CastLike", [X, np.array([1])], {}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("TopK", [X, np.array([2])], {}),
    ("TopK", [X, np.array([2])], {"largest": 0, "axis": 1}),
    ("CumSum", [X, np.int64(1)], {"exclusive": 1, "reverse": 1}),
    ("LpNormalization", [X], {"axis": 1}),
    ("BatchNormalization", [X, *(np.abs(_floats(4, seed=i)) for i in range(4))], {}),
    ("InstanceNormalization", [X, _floats(4), _floats(4, seed=1)], {}),
    ("LayerNormalization", [X, _floats(6, 6), _floats(6, 6, seed=1)], {"axis": 2}),
    ("LRN", [X], {"size": 3, "alpha": 0.01}),
    ("Einsum", [MATRIX, _floats(5, 2)], {"equation": "ij,jk->ki"}),
    ("Trilu", [MATRIX], {"upper": 0}),
    ("Trilu", [MATRIX, np.int64(1)], {}),
    ("ReduceMean", [X, np.array([1, 3])], {"keepdims": 0}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    (
        "ConstantOfShape",
        [np.array([2, 3])],
        {"value": numpy_helper.from_array(np.array([7.0], np.float32))},
    ),
    ("EyeLike", [MATRIX], {"k": 1}),
    ("Range", [np.int64(2), np.int64(9), np.int64(3)], {}),
    ("OneHot", [np.array([1, -1]), np.int64(4), np.array([0.0, 2.0], np.float32)], {"axis": 0}),
    ("Reshape", [X, np.array([0, -1, 12])], {}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [X[:1, :1], np.array([0])], {}),
    ("Squeeze", [X[:1, :1]], {}),
    ("Unsqueeze", [MATRIX, np.array([0, -1])], {}),
    ("Expand", [MATRIX[:, :1], np.array([2, 3, 5])], {}),
    ("Tile", [MATRIX, np.array([2, 3])], {}),
    ("Concat", [MATRIX, _floats(3, 2)], {"axis": 1}),
    ("Split", [X, np.array([1, 3])], {"axis": 1}),
    ("Split", [MATRIX], {"axis": 1, "num_outputs": 2}),
    ("Slice", [X, np.array([1, -1]), np.array([9, -9]), np.array([3, 2]), np.array([2, -2])], {}),
    ("Gather", [X, np.int64(-1)], {"axis": 1}),
    ("Gather", [X, np.array([[0, -1], [2, 1]])], {"axis": 2}),
    ("GatherElements", [MATRIX, np.array([[0, -1]])], {"axis": 1}),
    ("GatherND", [MATRIX, np.array([[0, 1], [2, 2]])], {}),
    ("ScatterND", [MATRIX, np.array([[0, 1], [2, 2]]), _floats(2)], {}),
    ("ScatterElements", [MATRIX, np.array([[1, 2]]), _floats(1, 2)], {"axis": 1}),
    (
        "ScatterElements",
        [MATRIX, np.array([[1, 1]]), _floats(1, 2)],
        {"axis": 1, "reduction": "add"},
    ),
    *(
        ("Pad", [X, np.array([0, 0, 1, 2, 0, 0, 2, 1])], {"mode": mode})
        for mode in ("constant", "reflect", "edge", "wrap")
    ),
    ("Pad", [X, np.array([0, 1, 0, 2, 0, 2, 0, 1])], {"mode": "reflect"}),
    ("Pad", [X, np.array([0, 0, -1, 2, 0, 0, 2, -1]), np.float32(3)], {}),
    ("Pad", [X, np.array([1, 2]), None, np.array([-1])], {}),
    ("Conv", [X, _floats(8, 4, 3, 3), _floats(8)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [X, _floats(8, 2, 3, 3)], {"pads": [0, 1, 2, 1], "group": 2}),
    ("Conv", [X, _floats(8, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X[..., 0], _floats(8, 4, 3)], {"auto_pad": "SAME_LOWER", "strides": [2]}),
    (
        "ConvTranspose",
        [X, _floats(4, 3, 4, 4), _floats(3)],
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    ),
    (
        "ConvTranspose",
        [X, _floats(4, 3, 3, 3), _floats(3)],
        {"pads": [0, 1, 1, 0], "strides": [2, 2], "output_padding": [1, 1]},
    ),
    ("ConvTranspose", [X, _floats(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    (
        "ConvTranspose",
        [X, _floats(4, 2, 3, 3)],
        {"strides": [2, 2], "group": 2, "output_shape": [12, 12]},
    ),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("MatMul", [X, _floats(6, 3)], {}),
    ("Gemm", [MATRIX, _floats(2, 5), _floats(2)], {"transB": 1}),
    ("Gemm", [MATRIX, _floats(3, 2), _floats(5, 2)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    *(
        (
            "Resize",
            [X, None, np.array([1, 1, scale, 2 * scale], np.float32)],
            {"mode": mode, "coordinate_transformation_mode": how},
        )
        for scale in (0.5, 2.0, 1.5)
        for mode in ("linear", "cubic")
        for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    ),
    *(
        (
            "Resize",
            [X, None, np.array([1, 1, scale, 2 * scale], np.float32)],
            {"mode": "nearest", "coordinate_transformation_mode": how, "nearest_mode": rounding},
        )
        for scale in (0.5, 2.0, 1.5)
        for how in ("half_pixel", "asymmetric")
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    ("Resize", [X, None, None, np.array([2, 4, 9, 3])], {"mode": "cubic", "cubic_coeff_a": -0.5}),
    (
        "Resize",
        [X, None, None, np.array([3, 3])],
        {"mode": "linear", "axes": [2, 3], "antialias": 1},
    ),
    ("DepthToSpace", [X], {"blocksize": 2}),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [X], {"blocksize": 2}),
    ("GridSample", [X, np.tanh(_floats(2, 5, 5, 2))], {}),
    ("GridSample", [X, np.tanh(_floats(2, 5, 5, 2))], {"mode": "nearest", "align_corners": 1}),
    ("AffineGrid", [_floats(2, 2, 3), np.array([2, 3, 4, 4])], {}),
]
# Operators of other versions of the operator set, and those that ONNX Runtime adds.
EARLY_CASES: list[tuple[int, str, list, dict]] = [
    (9, "Upsample", [X, np.array([1, 1, 2, 2], np.float32)], {}),
    (9, "Upsample", [X, np.array([1, 1, 2, 3], np.float32)], {"mode": "linear"}),
    (10, "Resize", [X, np.array([1, 1, 2, 2], np.float32)], {}),
    (9, "Softmax", [X], {"axis": 1}),
    (9, "Squeeze", [X[:, :1]], {"axes": [1]}),
    (9, "Unsqueeze", [X], {"axes": [1]}),
    (9, "Slice", [X], {"starts": [1, -2], "ends": [3, 9], "axes": [1, 2]}),
    (9, "Split", [X], {"split": [1, 3], "axis": 1}),
    (9, "Pad", [X], {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 2.0}),
    (9, "Clip", [X], {"min": -0.5, "max": 0.5}),
    (9, "ReduceMean", [X], {"axes": [1]}),
    (18, "GroupNormalization", [X, _floats(2), _floats(2, seed=1)], {"num_groups": 2}),
    (21, "GroupNormalization", [X, _floats(4), _floats(4, seed=1)], {"num_groups": 2}),
    (23, "RMSNormalization", [X, _floats(6)], {}),
    (24, "Swish", [X], {"alpha": 1.5}),
]
FUSED_CASES: list[tuple[str, list, dict]] = [
    ("QuickGelu", [X], {}),
    (
        "FusedConv",
        [X, _floats(8, 4, 3, 3), _floats(8)],
        {"activation": "LeakyRelu", "activation_params": [0.2]},
    ),
    ("FusedConv", [X, _floats(8, 4, 3, 3)], {"activation": "Relu"}),
    ("FusedGemm", [MATRIX, _floats(5, 2), _floats(2)], {"activation": "Relu"}),
    ("FusedMatMul", [MATRIX, _floats(2, 5)], {"transB": 1, "alpha": 0.5}),
]
# Tested by test_graph.py: it has no input, or needs a whole graph.
TESTED_ELSEWHERE = {"Constant"}


def test_every_operator_has_a_case() -> None:
    tested = {name for name, _, _ in CASES + FUSED_CASES} | {name for _, name, _, _ in EARLY_CASES}
    assert set(operator_names()) == tested | TESTED_ELSEWHERE


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_equals_onnx_runtime(name, inputs, attributes, tmp_path: Path) -> None:
    _compare(name, inputs, attributes, tmp_path)


@pytest.mark.parametrize(
    ("opset", "name", "inputs", "attributes"),
    EARLY_CASES,
    ids=[f"{case[1]}-{case[0]}" for case in EARLY_CASES],
)
def test_equals_onnx_runtime_in_other_operator_sets(
    opset, name, inputs, attributes, tmp_path: Path
) -> None:
    _compare(name, inputs, attributes, tmp_path, opset)


@pytest.mark.parametrize(("name", "inputs", "attributes"), FUSED_CASES)
def test_operators_that_onnx_runtime_adds(name, inputs, attributes, tmp_path: Path) -> None:
    _compare(name, inputs, attributes, tmp_path, domain="com.microsoft")


def _compare(name, inputs, attributes, folder: Path, opset: int = 20, domain: str = "") -> None:
    """Run one node with ONNX Runtime and in PyTorch. Optional inputs that are None are left out."""
    arrays = [None if each is None else np.asarray(each) for each in inputs]
    names = ["" if each is None else f"input_{i}" for i, each in enumerate(arrays)]
    count = {"Split": 2, "TopK": 2}.get(name, 1)
    count = attributes.get("num_outputs", count)
    outputs = [f"output_{i}" for i in range(count)]
    first = onnx.helper.make_tensor_value_info(
        names[0], helper.np_dtype_to_tensor_dtype(arrays[0].dtype), [None] * arrays[0].ndim
    )
    graph = helper.make_graph(
        [helper.make_node(name, names, outputs, domain=domain, **attributes)],
        "one-node",
        [first],
        [onnx.ValueInfoProto(name=each) for each in outputs],
        [
            numpy_helper.from_array(array, each)
            for each, array in zip(names[1:], arrays[1:], strict=True)
            if array is not None
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    path = folder / "graph.onnx"
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    expected = session.run(None, {names[0]: arrays[0]})
    computed = differentiable_graph(path)(**{names[0]: torch.from_numpy(arrays[0].copy())})
    for each, right in zip(computed.values(), expected, strict=True):
        assert each.numpy().dtype == right.dtype
        np.testing.assert_allclose(each.numpy(), right, rtol=1e-4, atol=1e-4)
