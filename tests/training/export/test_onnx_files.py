"""Weights in a second file, for graphs above 2 GiB."""

import json
import shutil

import numpy as np
import pytest

from service.runtime.models.catalog import State, load_entry
from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.onnx.sessions import ExecutionPlan, Provider

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


@pytest.fixture
def copied(external_folder, tmp_path):
    """A copy of the folder that a test can modify."""
    return shutil.copytree(external_folder, tmp_path / "two-layers" / "1")


def test_large_weights_go_to_a_second_file(external_folder, float32_folder):
    entry = load_entry(external_folder, Provider.CPU, PLAN)
    assert entry.state is State.READY
    (graph,) = entry.manifest.graphs.values()
    assert [name for name, _ in graph.files] == ["generator.onnx", "generator.onnx.data"]
    assert (external_folder / "generator.onnx.data").stat().st_size >= 64 * 192 * 4
    assert (external_folder / "generator.onnx").stat().st_size < 16_000
    inside = load_entry(float32_folder, Provider.CPU, PLAN)
    np.testing.assert_array_equal(entry.model.generate([1, 2]), inside.model.generate([1, 2]))
    assert inside.manifest.graphs["generator"].data is None
    assert "data" not in json.loads((inside.model.folder / MANIFEST_FILE).read_text())["graphs"]


def test_detects_changed_external_weights(copied):
    before = load_entry(copied, Provider.CPU, PLAN)
    data = copied / "generator.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    after = load_entry(copied, Provider.CPU, PLAN)
    assert after.state is State.FAILED
    assert "generator.onnx.data has sha256" in after.reason
    assert after.fingerprint != before.fingerprint
    data.unlink()
    assert "generator.onnx.data cannot be read" in load_entry(copied, Provider.CPU, PLAN).reason


def test_model_digest_covers_external_weights(external_folder):
    manifest = load_entry(external_folder, Provider.CPU, PLAN).manifest
    graph = manifest.graphs["generator"]
    other = graph.data[0].model_copy(update={"sha256": "0" * 64})
    changed = graph.model_copy(update={"data": (other,)})
    again = manifest.model_copy(update={"graphs": {"generator": changed}})
    assert again.digest != manifest.digest
