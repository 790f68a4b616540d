"""ONNX graphs of the feature networks, built from their published PyTorch weights.

Batch normalization is folded into the preceding convolution. Every graph takes ``images``
``[N, 3, side, side] float32`` and returns ``features [N, d]`` and ``logits [N, classes]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, NDArray[np.float32]]
Padding = tuple[int, int, int, int]
_NONE: Padding = (0, 0, 0, 0)


class _FeatureGraph:
    """Builds an ONNX graph from named weights."""

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self._weights, self._epsilon = weights, epsilon
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"value-{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: NDArray[np.float32]) -> str:
        """Add a weight and return its name."""
        name = f"weight-{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def convolution(
        self, x: str, convolution: str, norm: str, stride: int = 1, pads: Padding = _NONE
    ) -> str:
        """Add a convolution with folded batch normalization.

        `convolution` and `norm` are prefixes of weight names.
        """
        kernel = self._weights[f"{convolution}.weight"].astype(np.float64)
        spread = np.sqrt(self._weights[f"{norm}.running_var"].astype(np.float64) + self._epsilon)
        scale = self._weights[f"{norm}.weight"] / spread
        shift = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * scale
        folded = (kernel * scale[:, None, None, None]).astype(np.float32)
        # A depthwise convolution has one input channel per kernel, and one group per kernel.
        depthwise = folded.shape[1] == 1 and folded.shape[0] > 1
        return self.node(
            "Conv",
            x,
            self.constant(folded),
            self.constant(shift.astype(np.float32)),
            strides=[stride, stride],
            pads=list(pads),
            group=len(folded) if depthwise else 1,
        )

    def pool(self, x: str, operator: str, stride: int, padding: int = 0) -> str:
        """Add 3×3 pooling with ``MaxPool`` or ``AveragePool``. Averages exclude the padding."""
        return self.node(operator, x, kernel_shape=[3, 3], strides=[stride] * 2, pads=[padding] * 4)

    def finish(self, x: str, classifier: str, *, bias: bool, side: int) -> onnx.ModelProto:
        """Add global pooling and the linear layer `classifier`, and return the finished graph."""
        pooled = self.node("Flatten", self.node("GlobalAveragePool", x), output="features")
        matrix = self._weights[f"{classifier}.weight"]
        inputs = [pooled, self.constant(matrix)]
        if bias:
            inputs.append(self.constant(self._weights[f"{classifier}.bias"]))
        self.node("Gemm", *inputs, output="logits", transB=1)
        shapes = {"features": matrix.shape[1], "logits": matrix.shape[0]}
        graph = helper.make_graph(
            self._nodes,
            "features",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, side, side])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
                for name, width in shapes.items()
            ],
            self._constants,
        )
        opset = [helper.make_opsetid("", 20)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
        return model


def efficientnet_lite0(weights: Weights, side: int = 224) -> onnx.ModelProto:
    """EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946), from Luke Melas-Kyriazi's weights.

    The graph returns 1280 features and 1000 logits. Convolutions are padded as in TensorFlow: an
    odd pixel of padding is added at the bottom and on the right. Raises KeyError if a weight is
    missing.
    """
    # The stride of the first block of each stage. The weights determine all other sizes.
    strides = {0: 1, 1: 2, 3: 2, 5: 2, 8: 1, 11: 2, 15: 1}
    graph = _FeatureGraph(weights, epsilon=1e-3)

    def relu6(x: str) -> str:
        zero, six = (graph.constant(np.asarray(v, np.float32)) for v in (0, 6))
        return graph.node("Clip", x, zero, six)

    def convolve(x: str, convolution: str, norm: str, stride: int = 1) -> str:
        kernel = weights[f"{convolution}.weight"].shape[-1]
        nonlocal side
        after = -(-side // stride)
        margin = max((after - 1) * stride + kernel - side, 0)
        side, before = after, margin // 2
        pads = (before, before, margin - before, margin - before)
        return graph.convolution(x, convolution, norm, stride, pads)

    input_side = side
    x = relu6(convolve("images", "_conv_stem", "_bn0", 2))
    for i in range(1 + max(strides)):
        block, residual = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in weights:
            x = relu6(convolve(x, f"{block}._expand_conv", f"{block}._bn0"))
        stride = strides.get(i, 1)
        x = relu6(convolve(x, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        x = convolve(x, f"{block}._project_conv", f"{block}._bn2")
        if i not in strides:
            x = graph.node("Add", x, residual)
    x = relu6(convolve(x, "_conv_head", "_bn1"))
    return graph.finish(x, "_fc", bias=True, side=input_side)


def inception_v3(weights: Weights) -> onnx.ModelProto:
    """The Inception-v3 of the Fréchet inception distance (Heusel et al. 2017, arXiv:1706.08500).

    Built from the PyTorch port of TensorFlow's weights of 2015. The graph returns 2048 features,
    and 1008 logits without bias, as required by the Inception Score. Unlike in torchvision, average
    pooling excludes the padding, and the last block uses max pooling. Raises KeyError if a weight
    is missing.
    """
    graph = _FeatureGraph(weights, epsilon=1e-3)

    def unit(x: str, name: str, stride: int = 1, *, padded: bool = True) -> str:
        high, wide = weights[f"{name}.conv.weight"].shape[-2:]
        pads = (high // 2, wide // 2) * 2 if padded else _NONE
        return graph.node("Relu", graph.convolution(x, f"{name}.conv", f"{name}.bn", stride, pads))

    def chain(x: str, block: str, *names: str, stride: int = 1) -> str:
        """Add the units of a block in sequence. With stride 2, the last unit has no padding."""
        for name in names[:-1]:
            x = unit(x, f"{block}.{name}")
        return unit(x, f"{block}.{names[-1]}", stride, padded=stride == 1)

    def join(*parts: str) -> str:
        return graph.node("Concat", *parts, axis=1)

    def pooled(x: str, block: str, operator: str = "AveragePool") -> str:
        return unit(graph.pool(x, operator, stride=1, padding=1), f"{block}.branch_pool")

    def block_a(x: str, block: str) -> str:
        return join(
            unit(x, f"{block}.branch1x1"),
            chain(x, block, "branch5x5_1", "branch5x5_2"),
            chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            pooled(x, block),
        )

    def block_b(x: str, block: str) -> str:
        return join(
            chain(x, block, "branch3x3", stride=2),
            chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2),
            graph.pool(x, "MaxPool", stride=2),
        )

    def block_c(x: str, block: str) -> str:
        return join(
            unit(x, f"{block}.branch1x1"),
            chain(x, block, *(f"branch7x7_{i}" for i in range(1, 4))),
            chain(x, block, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
            pooled(x, block),
        )

    def block_d(x: str, block: str) -> str:
        return join(
            chain(x, block, "branch3x3_1", "branch3x3_2", stride=2),
            chain(x, block, *(f"branch7x7x3_{i}" for i in range(1, 5)), stride=2),
            graph.pool(x, "MaxPool", stride=2),
        )

    def block_e(x: str, block: str, operator: str) -> str:
        single = unit(x, f"{block}.branch3x3_1")
        double = chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2")
        return join(
            unit(x, f"{block}.branch1x1"),
            join(*(unit(single, f"{block}.branch3x3_2{side}") for side in "ab")),
            join(*(unit(double, f"{block}.branch3x3dbl_3{side}") for side in "ab")),
            pooled(x, block, operator),
        )

    x = unit("images", "Conv2d_1a_3x3", 2, padded=False)
    x = unit(x, "Conv2d_2a_3x3", padded=False)
    x = graph.pool(unit(x, "Conv2d_2b_3x3"), "MaxPool", stride=2)
    x = unit(x, "Conv2d_3b_1x1")
    x = graph.pool(unit(x, "Conv2d_4a_3x3", padded=False), "MaxPool", stride=2)
    blocks: list[tuple[str, Callable[[str, str], str]]] = [
        *((f"Mixed_5{letter}", block_a) for letter in "bcd"),
        ("Mixed_6a", block_b),
        *((f"Mixed_6{letter}", block_c) for letter in "bcde"),
        ("Mixed_7a", block_d),
        ("Mixed_7b", lambda x, block: block_e(x, block, "AveragePool")),
        ("Mixed_7c", lambda x, block: block_e(x, block, "MaxPool")),
    ]
    for name, build in blocks:
        x = build(x, name)
    return graph.finish(x, "fc", bias=False, side=299)
