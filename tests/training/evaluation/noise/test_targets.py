import shutil
from pathlib import Path

import pytest

from training.evaluation.errors import QualityError
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


def test_training_data_are_flipped_if_the_recipe_flips():
    assert open_noise_target("biggan-flowers", SHIPPED_MODELS).data.flip
    assert not open_noise_target("gan-mnist", SHIPPED_MODELS).data.flip
