"""Model folders: contents, names and versions."""

from pathlib import Path

import onnx
import pytest
from PIL import Image

from service.runtime.images.xmp import SourceType, read_source_type
from service.runtime.models.manifest import read_manifest
from tests.support.tiny_recipes import TINY

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", TINY)
def test_folder_contains_files_and_manifest(repository, name):
    folder = repository / name / "1"
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "generator.onnx",
        "golden.png",
        "model.json",
        "preview.webp",
    ]
    manifest = read_manifest(folder)
    assert manifest.task == "generate"
    assert manifest.latent.dimension == 100
    assert manifest.provenance.images == 640
    # If there are classes, each has a column.
    columns, rows = (10, 7) if manifest.classes else (8, 8)
    assert Image.open(folder / "preview.webp").size == (columns * 28, rows * 28)
    mark = read_source_type((folder / "preview.webp").read_bytes())
    assert mark == SourceType.GENERATED.uri
    card = (folder / "README.md").read_text()
    assert manifest.summary in card
    assert manifest.good_for
    assert f"\nGood for {manifest.good_for}.\n" in card
    assert f"`{name}`" in card


@pytest.mark.parametrize("name", TINY)
def test_graph_maps_any_batch_size_to_pixels(repository, name):
    graph = onnx.load(repository / name / "1" / "generator.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    (pixels,) = graph.graph.output
    assert pixels.name == "pixels"
    conditional = bool(read_manifest(repository / name / "1").classes)
    inputs = {"z", "class_weights"} if conditional else {"z"}
    assert {each.name for each in graph.graph.input} == inputs
    for each in graph.graph.input:
        assert each.type.tensor_type.shape.dim[0].dim_param
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in pixels.type.tensor_type.shape.dim[1:]] == [28, 28, 1]


@pytest.mark.parametrize("name", TINY)
def test_graph_contains_no_local_paths(repository, name):
    content = (repository / name / "1" / "generator.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"Traceback", str(ROOT).encode()):
        assert trace not in content
