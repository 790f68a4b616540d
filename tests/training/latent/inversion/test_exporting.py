import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.runtime.generation import execute, inversion_plan
from service.runtime.latent.sources import decode_floats
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import ENCODER
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.evaluation.features.networks import open_network
from training.latent.inversion.exporting import (
    EncoderRefused,
    ExportedEncoder,
    add_encoder,
    measured_encoder,
)
from training.latent.inversion.inverting import invert_images
from training.latent.inversion.measuring import own_images
from training.latent.inversion.model import open_generator
from training.latent.inversion.optimization import OptimizationSettings
from training.latent.inversion.training import EncoderSettings, EncoderTraining

# An export takes several seconds.
pytestmark = pytest.mark.slow

SETTINGS = EncoderSettings(batch=16, passes=2, width=16, hidden=64, learning_rate=3e-3)
PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def _quiet(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def models(drawn_repository: Path, tmp_path: Path) -> Path:
    """A copy of the models that a test can change."""
    shutil.copytree(drawn_repository, tmp_path / "models")
    return tmp_path / "models"


def _encoder(
    name: str, models: Path, out: Path, network_file: Path, images: int = 160
) -> ExportedEncoder:
    training = EncoderTraining(open_generator(name, models), SETTINGS, out)
    training.train(images)
    network = open_network(str(network_file))
    return measured_encoder(training, [own_images(training.generator, 20)], network, 50, _quiet)


@pytest.mark.parametrize("name", ["painted", "cut"])
def test_adds_a_measured_encoder_to_the_model(
    name: str, models: Path, tmp_path: Path, small_network_file: Path
) -> None:
    encoder = _encoder(name, models, tmp_path / "run", small_network_file)
    folder = models / name / "1"
    (folder / "README.md").write_text("# A model\n")
    before = read_manifest(folder)

    add_encoder(folder, encoder, force=True)

    manifest = read_manifest(folder)
    assert manifest.digest == before.digest
    assert manifest.encoder is not None
    assert manifest.encoder.trained_images == 160
    assert decode_floats(manifest.encoder.start).shape == (manifest.latent_dimension,)
    figures = {figure.metric: figure for figure in manifest.encoder.figures}
    assert 5 < figures["PSNR"].value < 30
    assert figures["PSNR"].nearest > figures["PSNR"].mean_image
    assert figures["PSNR"].count == 20
    assert figures["PSNR"].candidates == 50
    assert figures["feature distance"].feature_network is not None
    assert "## Encoder" in (folder / "README.md").read_text()
    # The served model corrects a latent with the graph.
    model = Model(folder, Provider.CPU, PLAN)
    assert ENCODER in model.sessions
    if name == "painted":
        # The figures are those of requests.
        targets = own_images(open_generator(name, models), 20)
        found = execute(inversion_plan(manifest, targets.pixels), model.run, PLAN.max_rows)
        served = np.mean([inversion.psnr for inversion in found])
        assert served == pytest.approx(figures["PSNR"].value, abs=1e-3)


def test_rows_of_an_exported_encoder_are_independent(
    models: Path, tmp_path: Path, small_network_file: Path
) -> None:
    encoder = _encoder("cut", models, tmp_path / "run", small_network_file, images=32)
    session = Session(encoder.path, Provider.CPU, PLAN)
    rng = np.random.default_rng(0)
    feeds = {
        "image": rng.integers(0, 256, (5, 24, 24, 3), np.uint8),
        "reconstruction": rng.integers(0, 256, (5, 24, 24, 3), np.uint8),
        "z": rng.normal(size=(5, 16)).astype(np.float32),
        "class_weights": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]],
    }
    together = session.run(feeds)["new_z"]
    single = [session.run({k: v[i : i + 1] for k, v in feeds.items()})["new_z"] for i in range(5)]
    np.testing.assert_array_equal(together, np.concatenate(single))


def test_refuses_an_encoder_without_a_margin(
    models: Path, tmp_path: Path, small_network_file: Path
) -> None:
    encoder = _encoder("painted", models, tmp_path / "run", small_network_file, images=16)
    folder = models / "painted" / "1"
    before = json.loads((folder / MANIFEST_FILE).read_text())
    assert encoder.failures

    with pytest.raises(EncoderRefused, match="--force"):
        add_encoder(folder, encoder)
    assert json.loads((folder / MANIFEST_FILE).read_text()) == before
    assert not (folder / "encoder.onnx").exists()

    (folder / "README.md").write_text("# A model\n")
    add_encoder(folder, encoder, force=True)
    assert "does not pass" in (folder / "README.md").read_text()


def test_replaces_an_encoder(models: Path, tmp_path: Path, small_network_file: Path) -> None:
    folder = models / "painted" / "1"
    first = _encoder("painted", models, tmp_path / "first", small_network_file, images=16)
    add_encoder(folder, first, force=True)
    second = replace(first, record=first.record.model_copy(update={"passes": 5}))
    add_encoder(folder, second, force=True)
    manifest = read_manifest(folder)
    assert manifest.encoder is not None
    assert manifest.encoder.passes == 5


def test_inverts_with_the_encoder_of_the_model(
    models: Path, tmp_path: Path, small_network_file: Path
) -> None:
    encoder = _encoder("cut", models, tmp_path / "run", small_network_file)
    add_encoder(models / "cut" / "1", encoder, force=True)
    generator = open_generator("cut", models)
    targets = own_images(generator, 4)

    results = invert_images(
        generator,
        targets.pixels,
        OptimizationSettings(steps=0),
        open_network(str(small_network_file)),
        _quiet,
        samples=1,
    )

    ratios = [result.after.psnr for result in results]
    assert np.mean(ratios) > 6
    assert all(result.before == result.after for result in results)
