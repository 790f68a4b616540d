import pytest

from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.parts.provenance import TrainingProvenance
from tests.support.image_to_image_models import write_translators


@pytest.fixture
def image_to_image_repository(tmp_path):
    """A repository of simple models. The manifest of `filled` refers to the inpainting recipe."""
    models = tmp_path / "models"
    write_translators(models)
    folder = models / "filled" / "1"
    provenance = TrainingProvenance(
        recipe="inpaint-flowers",
        dataset="flowers",
        dataset_license="none",
        images=1,
        turns=1,
        seconds=1,
        device="CPU",
        seed=0,
        code_revision="0",
    )
    manifest = read_manifest(folder).model_copy(update={"provenance": provenance})
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    (folder / "README.md").write_text("# filled\n\n| | |\n|---|---|\n")
    return models
