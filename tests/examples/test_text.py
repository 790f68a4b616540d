"""The examples of docs/text.md run with the included model, the others with small models."""

import shutil
from pathlib import Path

import pytest

from service.runtime.models.manifest import read_manifest
from tests.support.documentation import Session, blocks
from tests.support.output_models import (
    ENCODER,
    write_text_encoder,
    write_text_to_image,
)
from tests.support.servers import serving


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    shutil.copytree("models/seqgan-emoji", models / "seqgan-emoji")
    write_text_encoder(models / ENCODER / "1")
    digest = read_manifest(models / ENCODER / "1").digest
    write_text_to_image(models / "emoji" / "1", digest)
    return models


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with serving(models, env={"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}) as running:
        yield running


@pytest.mark.parametrize("document", ["docs/text.md", "docs/text-to-image.md"])
def test_blocks_run(document, models, server, tmp_path):
    found = [block for block in blocks(Path(document)) if block.tests]
    assert found
    environment = {"GANYMEDE_MODELS": str(models)}
    address = server.url.removeprefix("http://")
    with Session(tmp_path / "folder", address, environment) as session:
        for block in found:
            session.run(block)
