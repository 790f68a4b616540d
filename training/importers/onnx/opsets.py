"""Brings graphs of old opsets to one in which they can be wrapped."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, version_converter
from onnx.numpy_helper import from_array

from training.importers.errors import ModelImportError
from training.importers.onnx.reference import QuietSession
from training.importers.reading.onnx_files import opset_of

# Older opsets lack operators that wrapping needs, such as a Scan without a batch axis.
MIN_OPSET = 9
# Operators for the memory layout of a CPU, which ONNX Runtime adds to graphs that it saves.
_LAYOUT_DOMAIN = "com.microsoft.nchwc"
# For graphs that only use operators of other domains.
_OPSET_OF_OTHERS = 17


def with_wrappable_opset(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a graph in an opset of at least `MIN_OPSET`, with notes for the user.

    Whether it computes the same is checked when it is wrapped. Raises ModelImportError if it cannot
    be converted.
    """
    opset = opset_of(model)
    notes = []
    if any(node.domain == _LAYOUT_DOMAIN for node in model.graph.node):
        notes.append(
            "ONNX Runtime optimized the graph for the CPU of one machine; its images may differ on "
            "another one. Import the graph as it was before the optimization."
        )
    if opset == 0:
        extended = ModelProto()
        extended.CopyFrom(model)
        extended.opset_import.append(helper.make_opsetid("", _OPSET_OF_OTHERS))
        return extended, notes
    if opset >= MIN_OPSET:
        return model, notes
    reason = ""
    for convert in (_converted, _declared):
        try:
            converted = convert(model)
            QuietSession(converted)
        except Exception as error:  # noqa: BLE001 - the converter raises errors of many types
            reason = reason or str(error).partition("\n")[0]
            continue
        notes.append(f"The graph was converted from opset {opset} to {MIN_OPSET}.")
        return converted, notes
    raise ModelImportError(
        f"its opset {opset} cannot be converted to {MIN_OPSET} ({reason}): export it with a later "
        "opset"
    )


def _converted(model: ModelProto) -> ModelProto:
    return version_converter.convert_version(model, MIN_OPSET)


def _declared(model: ModelProto) -> ModelProto:
    """Return the graph with a later opset declared, for operators that the converter ignores.

    Between opsets 7 and 9 only few operators changed; of these, generators use Upsample.
    """
    declared = ModelProto()
    declared.CopyFrom(model)
    for each in declared.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.version = MIN_OPSET
    for i, node in enumerate(declared.graph.node):
        if node.op_type == "Upsample" and len(node.input) == 1:
            scales = next(each for each in node.attribute if each.name == "scales")
            name = f"converted/{i}/scales"
            declared.graph.initializer.append(from_array(np.array(scales.floats, np.float32), name))
            node.input.append(name)
            node.attribute.remove(scales)
    # With the declared opset comes a format in which initializers are not inputs.
    declared.ir_version = max(declared.ir_version, 4)
    return declared
