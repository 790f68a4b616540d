import json
import shutil
from pathlib import Path

import pytest

from service.doctor.findings import Status
from service.doctor.models import check_image, check_models
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from service.settings import load_settings
from tests.support.drawn_models import write_nan

SHIPPED = Path(__file__).parents[3] / "models"


@pytest.fixture
def models(tmp_path):
    """A repository with three of the included models, which have golden images."""
    for name in ("cgan-fashion", "dcgan-fashion", "gan-mnist"):
        shutil.copytree(SHIPPED / name, tmp_path / "models" / name)
    return tmp_path / "models"


def findings(folder, shown=None):
    shown = [] if shown is None else shown
    settings = load_settings({"models": folder, "provider": "cpu"})
    return list(check_models(settings, lambda *stage: shown.append(stage)))


def test_verifies_all_models_and_generates_an_image(models):
    shown = []
    summary, image = findings(models, shown)
    assert (summary.status, image.status) == (Status.OK, Status.OK)
    # Whether they are equal or only close depends on the CPU.
    assert summary.details["loaded"] == summary.details["exact"] + summary.details["near"] == 3
    assert "golden images" in summary.text
    assert image.details["model"] == "cgan-fashion@1"
    assert (image.details["width"], image.details["height"]) == (28, 28)
    assert [stage[:3] for stage in shown] == [("verifying models", i, 3) for i in range(4)]


def test_every_broken_model_is_an_error(models, caplog):
    (models / "gan-mnist" / "1" / "generator.onnx").write_bytes(b"x")
    manifest = models / "cgan-fashion" / "1" / "model.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "name": "another"}))
    first, second, summary, image = findings(models)
    assert first.details["id"] == "cgan-fashion@1"
    assert "another" in first.text
    assert second.status is Status.ERROR
    assert "sha256" in second.text
    assert "import or export the model again" in second.advice
    assert summary.details["loaded"] == 1
    assert image.details["model"] == "dcgan-fashion@1"
    # The findings say it all.
    assert caplog.records == []


def test_no_working_model_is_an_error(models):
    for graph in models.rglob("*.onnx"):
        graph.write_bytes(b"x")
    *broken, summary = findings(models)
    assert len(broken) == 3
    assert (summary.status, summary.text) == (Status.ERROR, "none of 3 can be served")


@pytest.mark.parametrize("exists", [True, False])
def test_no_models_is_an_error(tmp_path, exists):
    folder = tmp_path / "models"
    if exists:
        folder.mkdir()
    (finding,) = findings(folder)
    assert finding.status is Status.ERROR
    assert "ganymede pull" in finding.advice


def test_models_at_an_address_are_left_to_the_service():
    (finding,) = findings("s3://bucket/models")
    assert finding.status is Status.OK
    assert finding.details == {"address": "s3://bucket/models"}


def test_flat_image_is_an_error(tmp_path):
    write_nan(tmp_path / "broken" / "1")
    model = Model(tmp_path / "broken" / "1", Provider.CPU, plan_for(Provider.CPU))
    assert check_image(model).status is Status.OK
    # The first value of this latent is negative.
    finding = check_image(model, seed=2)
    assert finding.status is Status.ERROR
    assert "all values of the image are 0" in finding.text
