"""Weights stored as fp16."""

import shutil

import numpy as np
import onnx
import pytest

from service.runtime.models.catalog import State, load_entry
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.fp16_models import write_model
from training.export import fp16, onnx_files
from training.export.errors import ExportError

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def test_halves_the_file_and_reports_the_difference(tmp_path, float32_folder):
    messages = []
    fp16_folder = write_model(tmp_path, fp16=True, report=messages.append)
    folders = (float32_folder, fp16_folder)
    float32_size, fp16_size = ((folder / "generator.onnx").stat().st_size for folder in folders)
    assert fp16_size < 0.6 * float32_size
    entries = [load_entry(folder, Provider.CPU, PLAN) for folder in folders]
    assert [entry.state for entry in entries] == [State.READY, State.READY]
    float32_images, fp16_images = (entry.model.generate(range(8)) for entry in entries)
    difference = np.abs(float32_images.astype(int) - fp16_images)
    assert 0 < difference.max() <= 2
    (summary,) = messages
    assert f"at most {difference.max()} and by {difference.mean():.3f} on average" in summary
    assert f"PSNR {10 * np.log10(255**2 / (difference**2).mean()):.1f} dB" in summary
    assert summary in (fp16_folder / "README.md").read_text()
    # Rows of a batch stay independent.
    rows = [entries[1].model.generate([seed]) for seed in range(8)]
    np.testing.assert_array_equal(fp16_images, np.concatenate(rows))
    graph = onnx.load(fp16_folder / "generator.onnx")
    onnx.checker.check_model(graph, full_check=True)
    types = {weight.data_type for weight in graph.graph.initializer if np.prod(weight.dims) >= 1024}
    assert types == {onnx.TensorProto.FLOAT16}


def test_converts_external_weights(external_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(external_folder, tmp_path / "two-layers" / "1")
    monkeypatch.setattr(onnx_files, "MAX_WEIGHT_BYTES", 4096)
    before = (folder / "generator.onnx.data").stat().st_size
    graphs = fp16.convert_to_fp16(folder, load_entry(folder, Provider.CPU, PLAN).manifest.graphs)
    assert graphs["generator"].data[0].file == "generator.onnx.data"
    assert (folder / "generator.onnx.data").stat().st_size < 0.6 * before


def test_rejects_weights_beyond_the_range(float32_folder, tmp_path):
    folder = shutil.copytree(float32_folder, tmp_path / "two-layers" / "1")
    graph = onnx.load(folder / "generator.onnx")
    large = next(w for w in graph.graph.initializer if np.prod(w.dims) >= 1024)
    values = onnx.numpy_helper.to_array(large) * 1e6
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    onnx.save(graph, folder / "generator.onnx")
    with pytest.raises(ExportError, match="beyond the range of fp16"):
        fp16.convert_to_fp16(folder, load_entry(float32_folder, Provider.CPU, PLAN).manifest.graphs)


def test_rejects_too_different_images():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    fp16.Fp16Difference.between(images, images).check()
    visible = fp16.Fp16Difference.between(images, images + 5)
    assert (visible.largest, visible.mean, round(visible.psnr, 2)) == (5, 5.0, 34.15)
    visible.check()
    assert "below 40 dB" in visible.warning
    with pytest.raises(ExportError, match="without --half"):
        fp16.Fp16Difference.between(images, images + 9).check()
