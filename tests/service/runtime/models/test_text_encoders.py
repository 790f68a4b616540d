"""A text-to-image model is served only with its text encoder."""

import shutil

import pytest

from service.runtime.models.catalog import Catalog, ModelUnusable, State, find_encoder
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.model import ModelFailed
from service.runtime.onnx.sessions import Provider, plan_for
from tests.support.output_models import CAPTIONED, ENCODER, write_output_models


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    write_output_models(folder)
    return folder


def loaded(models):
    catalog = Catalog(models, Provider.CPU, plan_for(Provider.CPU))
    catalog.load()
    return catalog


def change_digest(models):
    """Give the encoder another maximum length, on which its digest depends."""
    path = models / ENCODER / "1" / MANIFEST_FILE
    path.write_text(path.read_text().replace('"max_tokens": 16', '"max_tokens": 15'))


def test_encoder_is_found_by_name_and_digest(models):
    catalog = loaded(models)
    model = catalog.get(CAPTIONED)
    assert catalog.encoder_of(model.manifest).manifest.name == ENCODER


def test_other_version_of_the_encoder_does_not_replace_it(models):
    shutil.copytree(models / ENCODER / "1", models / ENCODER / "2")
    path = models / ENCODER / "2" / MANIFEST_FILE
    text = path.read_text().replace('"version": "1"', '"version": "2"')
    path.write_text(text.replace('"max_tokens": 16', '"max_tokens": 15'))
    catalog = loaded(models)
    assert catalog.encoder_of(catalog.get(CAPTIONED).manifest).manifest.version == "1"


def test_missing_encoder_is_the_reason_of_the_failure(models):
    shutil.rmtree(models / ENCODER)
    entry = loaded(models).entry(CAPTIONED)
    assert entry.state is State.FAILED
    assert f"text encoder {ENCODER}" in entry.reason
    assert "missing" in entry.reason


def test_different_encoder_is_the_reason_of_the_failure(models):
    change_digest(models)
    catalog = loaded(models)
    assert catalog.entry(ENCODER).state is State.READY
    with pytest.raises(ModelFailed, match=f"text encoder {ENCODER}.*the one there has sha256"):
        catalog.get(CAPTIONED)


def test_failed_encoder_is_the_reason_of_the_failure(models):
    (models / ENCODER / "1" / "tokenizer.json").write_text("{}")
    assert "has failed" in loaded(models).entry(CAPTIONED).reason


def test_reload_follows_the_encoder(models):
    catalog = loaded(models)
    shutil.move(models / ENCODER, models.parent / ENCODER)
    without, changes = catalog.reload()
    assert without.entry(CAPTIONED).state is State.FAILED
    assert [entry.name for entry in changes.failed] == [CAPTIONED]
    shutil.move(models.parent / ENCODER, models / ENCODER)
    again, changes = without.reload()
    assert again.entry(CAPTIONED).state is State.READY
    assert {entry.name for entry in changes.loaded} == {ENCODER, CAPTIONED}


def test_command_finds_the_encoder(models):
    spec = read_manifest(models / CAPTIONED / "1").text_input
    assert find_encoder(models, spec, Provider.CPU).manifest.name == ENCODER
    shutil.rmtree(models / ENCODER)
    with pytest.raises(ModelUnusable, match="missing"):
        find_encoder(models, spec, Provider.CPU)
