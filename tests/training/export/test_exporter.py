import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.conftest import TINY
from training.checkpoints import CheckpointError
from training.cli.train import export
from training.evaluation.errors import QualityError
from training.export.exporter import ExportError, export_generator, export_run
from training.export.folding import fold_batch_norm
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANGenerator
from training.recipe.schema import RecipeError, load_recipe
from training.run import Run
from training.trainer import train

PLAN = ExecutionPlan(1, 1, 64)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "small")
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "generator.width=16"]
    train(load_recipe("dcgan-fashion", overrides), run)
    return run


@pytest.mark.parametrize("name", TINY)
def test_a_model_folder_holds_all_that_the_design_asks_for(repository, name):
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
    # A class in each column, where there are classes.
    columns, rows = (10, 7) if manifest.classes else (8, 8)
    assert Image.open(folder / "preview.webp").size == (columns * 28, rows * 28)
    card = (folder / "README.md").read_text()
    assert manifest.summary in card
    assert f"`{name}`" in card


@pytest.mark.parametrize("name", TINY)
def test_the_graph_makes_pixels_from_any_number_of_latents(repository, name):
    graph = onnx.load(repository / name / "1" / "generator.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    (pixels,) = graph.graph.output
    assert pixels.name == "pixels"
    conditional = bool(read_manifest(repository / name / "1").classes)
    taken = {"z", "class_weights"} if conditional else {"z"}
    assert {each.name for each in graph.graph.input} == taken
    for each in graph.graph.input:
        assert each.type.tensor_type.shape.dim[0].dim_param
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in pixels.type.tensor_type.shape.dim[1:]] == [28, 28, 1]


@pytest.mark.parametrize("name", TINY)
def test_the_graph_tells_nothing_of_the_machine_that_exported_it(repository, name):
    content = (repository / name / "1" / "generator.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"Traceback", str(ROOT).encode()):
        assert trace not in content


def test_versions_count_up_and_none_is_written_over(run, tmp_path):
    assert export_run(run, "garments", tmp_path).name == "1"
    assert export_run(run, "garments", tmp_path).name == "2"
    with pytest.raises(ExportError, match="is there already"):
        export_run(run, "garments", tmp_path, version="2")


def test_the_same_run_gives_the_same_digest(run, tmp_path):
    digests = {read_manifest(export_run(run, "garments", tmp_path)).digest for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["Upper", "a/b", "..", "", "a b", "-x"])
def test_a_name_that_cannot_stand_in_a_url_is_refused(run, tmp_path, name):
    with pytest.raises(ExportError, match="cannot stand in a URL"):
        export_run(run, name or "/", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_or_has_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="is not a run folder"):
        export_run(Run(tmp_path), "x", tmp_path / "models")
    run = Run(tmp_path / "begun")
    run.open(load_recipe("gan-mnist"))
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        export_run(run, "x", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def trained_like(width=8, channels=1) -> DCGANGenerator:
    """A generator whose batch statistics are not those of a fresh network."""
    torch.manual_seed(0)
    generator = DCGANGenerator(16, ImageShape(channels, 28, 28), width)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return generator.eval()


def test_folding_batch_normalisation_changes_no_picture():
    generator = trained_like()
    folded = fold_batch_norm(generator)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in generator.modules())
    z = torch.randn(9, 16)
    torch.testing.assert_close(folded(z), generator(z), rtol=1e-4, atol=1e-5)


def test_pixels_are_those_of_pytorch_but_for_single_roundings(tmp_path):
    generator = trained_like(channels=3)
    graph = export_generator(generator, 16, tmp_path)["generator"]
    from service.runtime.latent import seeds
    from service.runtime.onnx.sessions import Session
    from training.preview.grids import to_pixels

    z = seeds.draw(range(50), 16)
    session = Session(tmp_path / graph.file, Provider.CPU, PLAN)
    with torch.no_grad():
        expected = to_pixels(generator(torch.from_numpy(z)))
    difference = session.run({"z": z})["pixels"].astype(int) - expected.astype(int)
    assert abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.99


class BatchDependent(nn.Module):
    """What may not be exported: a row that depends on the other rows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 784)

    def forward(self, z, class_index=None):
        images = self.linear(z - z.mean(0, keepdim=True))
        return torch.tanh(images).reshape(-1, 1, 28, 28)


class Unfolded(nn.Module):
    """Batch normalisation that stands where nothing before it can take it in."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(16, 784)

    def forward(self, z, class_index=None):
        images = torch.sin(self.linear(z)).reshape(-1, 1, 28, 28)
        return torch.tanh(self.norm(images))


def test_a_generator_whose_rows_depend_on_each_other_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"differ|one by one"):
        export_generator(BatchDependent(), 16, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_would_hold_batch_normalisation_is_refused(tmp_path):
    with pytest.raises(ExportError, match="BatchNormalization"):
        export_generator(Unfolded().eval(), 16, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_refused_export_leaves_no_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("training.export.exporter.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differ by"):
        export_run(run, "garments", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_the_exported_generator_is_the_average_and_not_the_last(run, tmp_path):
    from training.checkpoints import Checkpoint
    from training.export.exporter import load_generator
    from training.preview.grids import to_pixels

    folder = export_run(run, "garments", tmp_path)
    generator = load_generator(run.recipe(), Checkpoint.load(run.checkpoint_path))
    from service.runtime.latent import seeds

    with torch.no_grad():
        expected = to_pixels(generator(torch.from_numpy(seeds.draw(range(4), 100))))
    pixels = Model(folder, Provider.CPU, PLAN).generate(range(4))
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 1


def test_the_manifest_names_what_made_the_model(run, tmp_path):
    folder = export_run(run, "garments", tmp_path)
    made = json.loads((folder / MANIFEST_FILE).read_text())["provenance"]
    assert made["recipe"] == "dcgan-fashion"
    assert made["dataset"] == "Fashion-MNIST"
    assert made["turns"] == made["images"] // 128
    assert made["seconds"] > 0
    assert made["device"]
    assert made["code_revision"]
    assert read_manifest(folder).license == run.recipe().license


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory, digits) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "conditional")
    train(load_recipe("cgan-fashion", [*TINY["cgan-fashion"], f"data.path={digits}"]), run)
    return run


def test_what_is_measured_stands_in_the_manifest_and_on_the_card(
    conditional_run, tmp_path, monkeypatch
):
    from typer.testing import CliRunner

    from service.cli.main import app
    from training.evaluation.metrics import class_accuracy

    quick = partial(class_accuracy.ClassifierSettings, width=4, images=500)
    monkeypatch.setattr(class_accuracy, "ClassifierSettings", quick)
    arguments = ["export", str(conditional_run.folder), "--name", "x", "--models", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--measure"], catch_exceptions=False)
    assert "class obedience" in result.output
    (figure,) = read_manifest(tmp_path / "x" / "1").quality
    assert (figure.metric, figure.samples) == ("class obedience", class_accuracy.SAMPLES)
    assert f"{figure.value:.1%}" in (tmp_path / "x" / "1" / "README.md").read_text()
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    plain = read_manifest(tmp_path / "x" / "2")
    assert plain.quality == ()
    assert plain.digest == read_manifest(tmp_path / "x" / "1").digest


def test_a_measurement_that_fails_leaves_no_folder(run, conditional_run, tmp_path):
    def fail(model):
        raise QualityError("no data")

    with pytest.raises(QualityError):
        export_run(conditional_run, "x", tmp_path / "models", measure=fail)
    assert not list((tmp_path / "models").iterdir())
    with pytest.raises(QualityError, match="the run has no classes"):
        export(run.folder, models=tmp_path / "models", measure=True)
