"""Weights in half precision, and weights in a file beside the graph."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from service.runtime.models.catalog import State, load_entry
from service.runtime.models.manifest import MANIFEST_FILE, ImageSpec
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.export import fp16, onnx_files
from training.export.exporter import ExportError
from training.importers.formats.base import converted_generator
from training.importers.recognition import FORMATS
from training.importers.writing import Target, write_model

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


class RenderedImage(nn.Module):
    """A latent of 16 values to 8×8 pictures, through weights of some size."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(16, 64)
        self.outer = nn.Linear(64, 192)
        for layer in (self.inner, self.outer):
            layer.weight.data = torch.randn(layer.weight.shape, generator=rng) * 0.2
            layer.bias.data = torch.randn(layer.bias.shape, generator=rng) * 0.2

    def forward(self, z, class_weights=None):
        return torch.tanh(self.outer(torch.tanh(self.inner(z)))).reshape(-1, 3, 8, 8)


def write(folder, *, halved=False, tell=lambda _: None):
    source = folder / "weights.pth"
    folder.mkdir(exist_ok=True)
    source.write_bytes(b"weights")
    converted = converted_generator(
        "Painted", RenderedImage(), 16, ImageSpec(height=8, width=8, channels=3)
    )
    target = Target(folder / "models", "painted", half=halved)
    return write_model(source, FORMATS[0], converted, target, tell=tell)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model of the usual kind."""
    return write(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A model whose weights are in a file beside the graph, as if 2 GiB were 4 KiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_files, "MOST_BYTES", 4096)
        return write(tmp_path_factory.mktemp("beside"))


@pytest.fixture
def copied(beside, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(beside, tmp_path / "painted" / "1")


def test_weights_that_one_file_cannot_hold_are_in_one_beside_it(beside, whole):
    entry = load_entry(beside, Provider.CPU, PLAN)
    assert entry.state is State.READY
    (graph,) = entry.manifest.graphs.values()
    assert [name for name, _ in graph.files] == ["generator.onnx", "generator.onnx.data"]
    assert (beside / "generator.onnx.data").stat().st_size >= 64 * 192 * 4
    assert (beside / "generator.onnx").stat().st_size < 16_000
    inside = load_entry(whole, Provider.CPU, PLAN)
    np.testing.assert_array_equal(entry.model.generate([1, 2]), inside.model.generate([1, 2]))
    assert inside.manifest.graphs["generator"].data is None
    assert "data" not in json.loads((inside.model.folder / MANIFEST_FILE).read_text())["graphs"]


def test_they_are_verified_and_watched_as_the_graph_is(copied):
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


def test_the_models_digest_covers_them(beside):
    manifest = load_entry(beside, Provider.CPU, PLAN).manifest
    graph = manifest.graphs["generator"]
    other = graph.data[0].model_copy(update={"sha256": "0" * 64})
    changed = graph.model_copy(update={"data": (other,)})
    again = manifest.model_copy(update={"graphs": {"generator": changed}})
    assert again.digest != manifest.digest


def test_half_weights_take_half_the_room_and_say_what_they_change(tmp_path, whole):
    details = []
    halved = write(tmp_path, halved=True, tell=details.append)
    sizes = [(folder / "generator.onnx").stat().st_size for folder in (halved, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    entries = [load_entry(each, Provider.CPU, PLAN) for each in (whole, halved)]
    assert [entry.state for entry in entries] == [State.READY, State.READY]
    one, other = (entry.model.generate(range(8)) for entry in entries)
    apart = np.abs(one.astype(int) - other)
    assert 0 < apart.max() <= 2
    assert f"differ by {apart.max()} at most and {apart.mean():.3f} in the mean" in details[0]
    assert f"PSNR {10 * np.log10(255**2 / (apart**2).mean()):.1f} dB" in details[0]
    assert details[0] in (halved / "README.md").read_text()
    # A row is the same alone and in a batch, as it was.
    rows = [entries[1].model.generate([seed]) for seed in range(8)]
    np.testing.assert_array_equal(other, np.concatenate(rows))
    graph = onnx.load(halved / "generator.onnx")
    onnx.checker.check_model(graph, full_check=True)
    kinds = {weight.data_type for weight in graph.graph.initializer if np.prod(weight.dims) >= 1024}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_half_weights_may_lie_beside_the_graph_too(copied, monkeypatch):
    monkeypatch.setattr(onnx_files, "MOST_BYTES", 4096)
    before = (copied / "generator.onnx.data").stat().st_size
    graphs = fp16.halve(copied, load_entry(copied, Provider.CPU, PLAN).manifest.graphs)
    assert graphs["generator"].data[0].file == "generator.onnx.data"
    assert (copied / "generator.onnx.data").stat().st_size < 0.6 * before


def test_a_weight_that_float16_cannot_hold_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "painted" / "1")
    graph = onnx.load(folder / "generator.onnx")
    large = next(w for w in graph.graph.initializer if np.prod(w.dims) >= 1024)
    values = onnx.numpy_helper.to_array(large) * 1e6
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    onnx.save(graph, folder / "generator.onnx")
    with pytest.raises(ExportError, match="float16 cannot hold"):
        fp16.halve(folder, load_entry(whole, Provider.CPU, PLAN).manifest.graphs)


def test_pictures_that_would_be_others_are_refused():
    whole = np.zeros((2, 4, 4, 3), np.uint8)
    fp16.Parity.of(whole, whole).assert_good()
    near = fp16.Parity.of(whole, whole + 5)
    assert (near.largest, near.mean, round(near.psnr, 2)) == (5, 5.0, 34.15)
    near.assert_good()
    with pytest.raises(ExportError, match="without --half"):
        fp16.Parity.of(whole, whole + 9).assert_good()
