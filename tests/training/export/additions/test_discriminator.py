"""Discriminators as graphs: scores of single images, equal to PyTorch's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import file_sha256, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import TRAINABLE_FILE, Trainable
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.tiny_recipes import TINY
from training.checkpoints import Checkpoint
from training.export.additions import update_model_folder
from training.export.additions.discriminator import (
    REFERENCE_IMAGES,
    add_discriminator,
    discriminator_of_folder,
    with_independent_rows,
)
from training.export.errors import ExportError
from training.export.exporter import export_run
from training.fine_tuning.errors import FineTuningError
from training.networks.layers.minibatch import MinibatchDiscrimination, MinibatchStandardDeviation
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANDiscriminatorOptions
from training.networks.noise.mlp import MLPDiscriminatorOptions
from training.networks.noise.stylegan2 import StyleGAN2DiscriminatorOptions
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

PLAN = ExecutionPlan(1, 1, 64)


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory, digits) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "conditional")
    train(load_recipe("cgan-fashion", [*TINY["cgan-fashion"], f"data.path={digits}"]), run)
    return run


@pytest.fixture(scope="module")
def scored_folder(conditional_run, tmp_path_factory) -> Path:
    """The model folder of the run, with its discriminator."""
    models = tmp_path_factory.mktemp("models")
    return export_run(conditional_run, "garments", models, discriminator=True)


@pytest.fixture(scope="module")
def plain_folder(scored_folder, tmp_path_factory) -> Path:
    """The same model without the discriminator."""
    folder = tmp_path_factory.mktemp("plain") / "garments" / "1"
    shutil.copytree(scored_folder, folder)

    def remove(_, manifest):
        graphs = {role: graph for role, graph in manifest.graphs.items() if role == "generator"}
        return manifest.model_copy(update={"graphs": graphs, "discriminator": None})

    update_model_folder(folder, remove)
    assert not (folder / "discriminator.onnx").exists()
    return folder


@pytest.fixture
def folder(plain_folder, tmp_path) -> Path:
    return Path(shutil.copytree(plain_folder, tmp_path / "garments" / "1"))


def images_of(model: Model, count: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.eye(len(model.manifest.classes), dtype=np.float32)
    return model.generate(range(count)), weights[np.arange(count) % len(weights)]


def test_exports_the_discriminator_of_a_run(conditional_run, scored_folder, plain_folder):
    model = Model(scored_folder, Provider.CPU, PLAN)
    assert model.digest == read_manifest(plain_folder).digest
    pixels, weights = images_of(model, 12)
    scores = model.run("discriminator", {"image": pixels, "class_weights": weights})["score"]
    recipe = conditional_run.recipe()
    network = recipe.build_discriminator()
    checkpoint = Checkpoint.load(conditional_run.checkpoint_path)
    network.load_state_dict(checkpoint.game["networks"]["discriminator"])
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = network.eval()(images, torch.arange(12) % recipe.classes).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    part = model.manifest.discriminator
    assert part.calibration.scale == 1.0
    assert part.calibration.maximum >= scores.max() - 1e-5
    assert "640 images" in part.description
    assert "## Discriminator" in (scored_folder / "README.md").read_text()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            MLPDiscriminatorOptions(network="mlp", widths=(16,), dropout=0.5),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            DCGANDiscriminatorOptions(
                network="dcgan", width=8, normalisation="spectral", minibatch="discrimination"
            ),
            marks=pytest.mark.slow,
        ),
        StyleGAN2DiscriminatorOptions(network="stylegan2", width=8, most=8),
    ],
    ids=lambda options: options.network,
)
def test_rows_are_independent_of_each_other(options, folder):
    if options.network == "stylegan2":
        # Its sides are powers of two.
        with torch.random.fork_rng():
            network = options.build(ImageShape(1, 32, 32), 10)
        padded = torch.nn.ZeroPad2d(2)
        build = _Padded(padded, network)
    else:
        build = options.build(ImageShape(1, 28, 28), 10)
    update_model_folder(folder, add_discriminator(build, batch=16))
    model = Model(folder, Provider.CPU, PLAN)
    pixels, weights = images_of(model, 5)

    def scores(rows: slice) -> np.ndarray:
        feeds = {"image": pixels[rows], "class_weights": weights[rows]}
        return model.run("discriminator", feeds)["score"]

    together = scores(slice(0, 5))
    assert len(np.unique(together)) == 5
    for row in range(5):
        np.testing.assert_allclose(
            scores(slice(row, row + 1)), together[row : row + 1], rtol=1e-5, atol=1e-5
        )


class _Padded(torch.nn.Module):
    def __init__(self, pad, network):
        super().__init__()
        self.pad, self.network = pad, network

    def forward(self, images, classes):
        return self.network(self.pad(images), classes)


def test_layers_of_a_batch_compare_with_the_reference_images():
    torch.manual_seed(0)
    references = torch.randn(REFERENCE_IMAGES, 3, 4, 4)
    fixed = with_independent_rows(_Unary(MinibatchStandardDeviation()), references, None, 8)
    with torch.no_grad():
        groups = references.reshape(4, -1, 3, 4, 4)
        expected = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).mean()
        plane = fixed(references[:1], None)[:, -1]
    torch.testing.assert_close(plane, expected.expand_as(plane))


def test_similarities_are_scaled_to_the_batch_of_the_training():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(6, kernels=4, kernel_dim=3)
    references = torch.randn(REFERENCE_IMAGES, 6)
    fixed = with_independent_rows(_Unary(layer), references, None, batch=REFERENCE_IMAGES + 1)
    row = torch.randn(1, 6)
    with torch.no_grad():
        # A batch of the row and all reference images.
        expected = layer(torch.cat([row, references]))[:1]
        torch.testing.assert_close(fixed(row, None), expected)


class _Unary(torch.nn.Module):
    """A layer that is called as a discriminator."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images, _classes):
        return self.layer(images)


def with_trainable(folder: Path, run: Run, **changes: object) -> None:
    """Add the trainable weights of a run to a model folder."""
    weights = Checkpoint.load(run.checkpoint_path).game["networks"]["discriminator"]
    tensors = {f"discriminator.{name}": each.contiguous() for name, each in weights.items()}

    def change(part, manifest):
        save_file(tensors, part / TRAINABLE_FILE)
        fields = {
            "sha256": file_sha256(part / TRAINABLE_FILE),
            "recipe": run.recipe().to_yaml(),
        }
        return manifest.model_copy(update={"trainable": Trainable(**fields | changes)})

    update_model_folder(folder, change)


def test_adds_the_discriminator_of_the_trainable_weights(
    conditional_run, scored_folder, folder, tmp_path
):
    with_trainable(folder, conditional_run)
    before = read_manifest(folder)
    result = CliRunner().invoke(
        app, ["export", "garments", "--models", str(tmp_path), "--discriminator"]
    )
    assert result.exit_code == 0, result.output
    added, of_run = read_manifest(folder), read_manifest(scored_folder)
    assert added.graphs["discriminator"].sha256 == of_run.graphs["discriminator"].sha256
    assert added.golden == before.golden


def test_options_of_runs_are_refused_for_a_model(scored_folder):
    for option in (["--name", "other"], ["--version", "2"], ["--trainable"], ["--measure"]):
        result = CliRunner().invoke(app, ["export", str(scored_folder), "--discriminator", *option])
        assert isinstance(result.exception, ExportError)
        assert "are for runs" in str(result.exception)


def test_folders_without_a_discriminator_to_export(conditional_run, folder, tmp_path):
    with pytest.raises(FineTuningError, match="no trainable weights"):
        discriminator_of_folder(folder)
    with_trainable(folder, conditional_run, recipe=None)
    with pytest.raises(ExportError, match="was imported"):
        discriminator_of_folder(folder)
    with_trainable(folder, conditional_run, recipe=load_recipe("dcgan-fashion").to_yaml())
    with pytest.raises(ExportError, match="do not fit the recipe"):
        discriminator_of_folder(folder)
    result = CliRunner().invoke(app, ["export", str(tmp_path / "none"), "--discriminator"])
    assert result.exit_code != 0
