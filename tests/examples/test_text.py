"""The examples of docs/text.md, docs/text-to-image.md and docs/audio.md run with their models."""

import shutil
from pathlib import Path

import pytest

from tests.support.documentation import Session, blocks
from tests.support.servers import serving


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for name in ("seqgan-emoji", "text2emoji", "wordllama", "wavegan-digits"):
        shutil.copytree(Path("models") / name, models / name)
    return models


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with serving(models, env={"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}) as running:
        yield running


@pytest.mark.parametrize("document", ["docs/text.md", "docs/text-to-image.md", "docs/audio.md"])
def test_blocks_run(document, models, server, tmp_path):
    found = [block for block in blocks(Path(document)) if block.tests]
    assert found
    environment = {"GANYMEDE_MODELS": str(models)}
    address = server.url.removeprefix("http://")
    with Session(tmp_path / "folder", address, environment) as session:
        for block in found:
            session.run(block)
