import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.parts.provenance import TrainingData
from training.data.images import DataOptions, load_images
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationSettings, evaluate_targets
from training.evaluation.noise.targets import open_noise_target

SHIPPED_MODELS = Path(__file__).parents[4] / "models"


@pytest.fixture
def two_versions(models):
    """A repository with the versions 1 and 10 of gan-mnist."""
    shutil.copytree(models / "gan-mnist" / "1", models / "gan-mnist" / "10")
    manifest = models / "gan-mnist" / "10" / "model.json"
    manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "10"'))
    return models


@pytest.mark.parametrize(
    ("target", "title"),
    [
        ("gan-mnist", "gan-mnist@10"),
        ("gan-mnist@1", "gan-mnist@1"),
        ("{models}/gan-mnist/1", "gan-mnist@1"),
        ("{models}/gan-mnist", "gan-mnist@10"),
    ],
)
def test_model_is_found_by_name_version_or_folder(two_versions, target, title):
    target = target.format(models=two_versions)
    assert open_noise_target(target, two_versions).title == title


def test_rejects_unknown_targets(repository):
    with pytest.raises(QualityError, match="nowhere is not a model, run or folder"):
        open_noise_target("nowhere", repository)
    with pytest.raises(QualityError, match="no version '7'"):
        open_noise_target("gan-mnist@7", repository)
    with pytest.raises(QualityError, match="is a model repository"):
        open_noise_target(str(repository), repository)


def test_rejects_unsupported_truncation(repository):
    with pytest.raises(QualityError, match="does not support truncation"):
        open_noise_target("gan-mnist", repository, truncation=0.5)


def with_record(models: Path, **changes) -> None:
    """Add a record of the training data to gan-mnist@1."""
    folder = models / "gan-mnist" / "1"
    manifest = read_manifest(folder)
    values = {"title": "own", "license": "unknown", "images": 60, "fingerprint": "a" * 64}
    provenance = manifest.provenance.model_copy(
        update={"data": (TrainingData(**values | changes),)}
    )
    changed = manifest.model_copy(update={"provenance": provenance})
    (folder / MANIFEST_FILE).write_text(changed.to_json())


def test_says_that_a_pretrained_network_judged_the_images(models, digits, small_network_file):
    folder = models / "gan-mnist" / "1"
    manifest = read_manifest(folder)
    settings = EvaluationSettings(
        samples=10, network=str(small_network_file), class_accuracy=False, data=str(digits)
    )
    (result,) = evaluate_targets([open_noise_target("gan-mnist", models)], settings)
    assert "flatter" not in json.dumps(result.to_json())
    provenance = manifest.provenance.model_copy(update={"pretrained": ("Net (ImageNet, MIT)",)})
    changed = manifest.model_copy(update={"provenance": provenance})
    (folder / MANIFEST_FILE).write_text(changed.to_json())
    (result,) = evaluate_targets([open_noise_target("gan-mnist", models)], settings)
    assert "judged by Net (ImageNet, MIT) in training" in json.dumps(result.to_json())


def test_data_without_name_are_not_replaced_by_the_data_of_the_recipe(models):
    with_record(models)
    target = open_noise_target("gan-mnist", models)
    assert target.data is None
    settings = EvaluationSettings(samples=10)
    with pytest.raises(QualityError, match=r"trained on own, 60 images.*provide its images with"):
        evaluate_targets([target], settings)


def test_refuses_other_images_under_the_same_name(
    models, digits, small_network_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    shutil.copytree(digits, tmp_path / "garden")
    with_record(models, name="garden", title="Garden")
    target = open_noise_target("gan-mnist", models)
    settings = EvaluationSettings(samples=10, network=str(small_network_file), class_accuracy=False)
    with pytest.raises(DataError, match=r"Garden has changed since gan-mnist@1 was trained on it"):
        evaluate_targets([target], settings)
    explicit = replace(settings, data=str(tmp_path / "garden"))
    (result,) = evaluate_targets([target], explicit)
    assert "was trained on other images" in json.dumps(result.to_json())
    found = load_images(DataOptions(name="garden", resolution=28, channels=1)).fingerprint
    with_record(models, name="garden", title="Garden", fingerprint=found)
    (result,) = evaluate_targets([open_noise_target("gan-mnist", models)], settings)
    assert "was trained on other images" not in json.dumps(result.to_json())


def test_training_data_are_flipped_if_the_recipe_flips():
    assert open_noise_target("biggan-flowers", SHIPPED_MODELS).data.flip
    assert not open_noise_target("gan-mnist", SHIPPED_MODELS).data.flip


def test_images_after_a_corrupt_one_are_evaluated(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    for i in (1, 2):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / f"{i}.png")
    target = open_noise_target(str(tmp_path), tmp_path)
    assert target.stored.shape == (2, 6, 6, 3)


def test_images_that_are_all_corrupt_are_named(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0.png in .* cannot be read"):
        open_noise_target(str(tmp_path), tmp_path)
