"""The included models and files are complete and consistent."""

import os
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from service.runtime.image_to_image import translate
from service.runtime.images.decoding import DecodedImage
from service.runtime.models.catalog import Catalog, State, model_folders
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.sources import DataError
from training.evaluation.features.classifier import ClassifierSettings
from training.evaluation.metrics.class_accuracy import CLASS_ACCURACY, measure_class_accuracy
from training.evaluation.text.evaluation import negative_log_likelihood
from training.evaluation.text.targets import open_text_target
from training.recipe.loading import load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(model_folders(ROOT / "models"))


def test_included_models_load_and_match_their_recipes():
    catalog = Catalog(ROOT / "models", Provider.CPU, ExecutionPlan(1, 1, 8))
    catalog.load()
    assert {"dcgan-fashion", "gan-mnist"} <= set(catalog.names())
    for entry in catalog.entries:
        assert entry.state is State.READY, entry.reason
        if entry.manifest.task == "text-encoder":
            # Imported, not trained by a recipe.
            continue
        recipe = load_recipe(entry.manifest.provenance.recipe)
        latent = entry.manifest.latent
        assert (latent.dimension if latent else None) == getattr(recipe.generator, "z_dim", None)
        assert entry.manifest.provenance.images >= 0.99 * recipe.train.images


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda f: f"{f.parent.name}@{f.name}")
def test_included_model_has_preview_card_and_small_graphs(folder):
    assert (folder / "preview.webp").stat().st_size > 0
    source = "Source" if read_manifest(folder).task == "text-encoder" else "Training data"
    assert f"| {source}" in (folder / "README.md").read_text()
    for graph in folder.glob("*.onnx"):
        assert graph.stat().st_size < 16 * 2**20


@pytest.mark.parametrize(
    "folder",
    [folder for folder in SHIPPED if read_manifest(folder).input],
    ids=lambda f: f"{f.parent.name}@{f.name}",
)
def test_included_models_accept_tiny_and_oblong_images(folder):
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    spec = model.manifest.input
    for height, width in ((1, 1), (2, 1), (3, 70), (65, 9)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        mask = np.full((height, width), 255, np.uint8) if spec.masked else None
        for role in spec.roles:
            output = translate(model, DecodedImage(pixels, None), mask, role)
            assert output.shape == (height * spec.factor, width * spec.factor, 3)


def class_conditional_models(*datasets):
    """Yield the included class-conditional models that were trained on one of `datasets`."""
    for folder in SHIPPED:
        manifest = read_manifest(folder)
        if manifest.classes and load_recipe(manifest.provenance.recipe).data.name in datasets:
            yield folder, manifest


def test_digit_and_garment_models_publish_high_class_accuracy():
    for folder, manifest in class_conditional_models("mnist", "fashion-mnist"):
        (published,) = [f for f in manifest.quality if f.metric == CLASS_ACCURACY.key]
        assert published.value >= 0.9, folder
        assert published.samples >= 1000
        assert "Class accuracy" in (folder / "README.md").read_text()


def test_published_class_accuracy_is_reproduced():
    # A classifier trained for seconds and few samples are enough to detect swapped classes.
    quick = ClassifierSettings(width=16, images=60_000)
    for folder, manifest in class_conditional_models("mnist", "fashion-mnist"):
        data = load_recipe(manifest.provenance.recipe).data
        (published,) = [f for f in manifest.quality if f.metric == CLASS_ACCURACY.key]
        try:
            data.open()
        except DataError as error:
            warnings.warn(
                f"class accuracy of {manifest.name} is not measured: {error}", stacklevel=1
            )
            continue
        measured = measure_class_accuracy(folder, data, samples=500, settings=quick)
        assert measured.accuracy == pytest.approx(published.value, abs=0.08)


def test_published_likelihood_of_texts_is_reproduced():
    folders = [folder for folder in SHIPPED if read_manifest(folder).text]
    assert folders
    for folder in folders:
        (published,) = [
            figure.value
            for figure in read_manifest(folder).quality
            if figure.metric == "NLL, adversarial, temperature 1"
        ]
        try:
            target = open_text_target(str(folder), ROOT / "models")
        except DataError as error:
            warnings.warn(f"{folder.parent.name} is not measured: {error}", stacklevel=1)
            continue
        measured = negative_log_likelihood(target.generators[0], target.data.held_out)
        assert measured == pytest.approx(published, rel=1e-4)


def test_standard_files_exist():
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml"):
        assert (ROOT / name).is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_help_lists_every_target():
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in phony.group(1).split():
        assert f"\n{target} " in f"\n{listed}"
