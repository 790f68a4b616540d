"""Names and versions of new model folders."""

import pytest

from service.runtime.models.folders import ModelFolderError, new_folder, new_version_folder


def test_default_version_is_next_number(tmp_path):
    for expected in ("1", "2"):
        folder = new_version_folder(tmp_path, "garments")
        assert folder.name == expected
        with new_folder(folder) as part:
            (part / "model.json").write_text("{}")
    assert new_version_folder(tmp_path, "garments", "10").name == "10"


def test_never_overwrites_a_version(tmp_path):
    (tmp_path / "garments" / "2").mkdir(parents=True)
    with pytest.raises(ModelFolderError, match="exists already"):
        new_version_folder(tmp_path, "garments", "2")


@pytest.mark.parametrize("name", ["Upper", "a/b", "..", "", "a b", "-x"])
def test_rejects_names_that_cannot_be_in_a_url(tmp_path, name):
    with pytest.raises(ModelFolderError, match="cannot be used in a URL"):
        new_version_folder(tmp_path, name or "/")
    assert not list(tmp_path.iterdir())
