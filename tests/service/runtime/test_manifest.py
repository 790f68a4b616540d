import json

import pytest

from service.runtime.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest


@pytest.fixture
def folder(models):
    return models / "dcgan-fashion" / "1"


def edit(folder, **changes):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_read_back(folder):
    manifest = read_manifest(folder)
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


def test_the_digest_follows_the_graphs_and_not_the_words(folder):
    before = read_manifest(folder).digest
    edit(folder, summary="other words", license="MIT")
    assert read_manifest(folder).digest == before
    graphs = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]
    graphs["generator"]["sha256"] = "0" * 64
    edit(folder, graphs=graphs)
    assert read_manifest(folder).digest != before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"colour": "blue"}, "colour"),
        ({"name": "../escape"}, "name"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"generator": {"file": "/etc/passwd.onnx"}}}, "graphs.generator.file"),
        ({"task": "juggle"}, "task"),
        ({"latent": None}, "needs a latent space"),
        ({"classes": ["a", "b"]}, "class_index go together"),
        ({"image": {"height": 0, "width": 28, "channels": 1}}, "image.height"),
        ({"image": {"height": 28, "width": 28, "channels": 2}}, "image.channels"),
    ],
)
def test_a_bad_manifest_is_one_line_that_names_the_key(folder, changes, named):
    edit(folder, **changes)
    with pytest.raises(ManifestError, match=named.replace(".", r"\.")) as error:
        read_manifest(folder)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_json_or_not_there_is_one_line(folder):
    (folder / MANIFEST_FILE).write_bytes(b"\xff\x00{")
    with pytest.raises(ManifestError, match="not a manifest"):
        read_manifest(folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(folder)
