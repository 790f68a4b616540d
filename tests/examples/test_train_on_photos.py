import pytest

from service.runtime.models.manifest import read_manifest
from tests.support.examples import run_example
from tests.support.images import write_colored


@pytest.mark.slow
def test_trains_exports_and_measures(tmp_path):
    photos = write_colored(tmp_path / "photos", classes=1, count=120)
    (photos / "broken.png").write_bytes(b"not an image")
    sizes = ["train.images=640", "train.batch=16", "generator.width=8", "discriminator.width=8"]
    arguments = ["train_on_photos.sh", photos, "digits", *sizes]
    run_example(*arguments, cwd=tmp_path, SIDE="32", SAMPLES="20")
    manifest = read_manifest(tmp_path / "models" / "digits" / "1")
    assert (manifest.image_spec.width, manifest.image_spec.channels) == (32, 3)
    assert manifest.quality
    assert (tmp_path / "runs" / "digits" / "quality.html").exists()
    # Started again, it goes on: nothing is prepared or trained a second time.
    again = run_example(*arguments, cwd=tmp_path, SIDE="32", SAMPLES="20")
    assert "images in" not in again.stdout.partition("trained on")[0]
    assert (tmp_path / "models" / "digits" / "2").is_dir()
