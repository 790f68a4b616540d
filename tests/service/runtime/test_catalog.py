import json
import shutil

import pytest

from service.runtime.catalog import Catalog, ModelFailed, ModelNotFound, State, version_key
from service.runtime.manifest import MANIFEST_FILE
from service.runtime.sessions import ExecutionPlan, Provider
from tests.conftest import TINY

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def load(folder) -> Catalog:
    catalog = Catalog(folder, Provider.CPU, PLAN)
    catalog.load()
    return catalog


def add_version(models, name, version):
    folder = shutil.copytree(models / name / "1", models / name / version)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": version}))
    return folder


def rewrite_digest(folder):
    from service.runtime.manifest import file_sha256

    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    graph = manifest["graphs"]["generator"]
    graph["sha256"] = file_sha256(folder / graph["file"])
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_every_folder_is_an_entry_and_hidden_ones_are_not(models):
    (models / "dcgan-fashion" / ".writing-x").mkdir()
    (models / ".cache" / "1").mkdir(parents=True)
    catalog = load(models)
    assert [entry.id for entry in catalog.entries] == [f"{name}@1" for name in sorted(TINY)]
    assert {entry.state for entry in catalog.entries} == {State.READY}


def test_a_bare_name_means_the_newest_version_and_10_is_newer_than_9(models):
    for version in ("9", "10"):
        add_version(models, "gan-mnist", version)
    catalog = load(models)
    assert catalog.get("gan-mnist").manifest.version == "10"
    assert catalog.get("gan-mnist@9").manifest.version == "9"
    assert [e.version for e in catalog.versions("gan-mnist")] == ["10", "9", "1"]


def test_versions_are_ordered_as_people_order_them():
    versions = ["1.0", "10", "2", "1.0.1", "1"]
    assert sorted(versions, key=version_key) == ["1", "1.0", "1.0.1", "2", "10"]


def truncate_graph(folder):
    graph = folder / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


def truncate_graph_and_sign_it(folder):
    truncate_graph(folder)
    rewrite_digest(folder)


def no_graph(folder):
    (folder / "generator.onnx").unlink()


def bad_manifest(folder):
    (folder / MANIFEST_FILE).write_text("{")


def another_name(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"gan-mnist"', '"other"', 1))


def another_size(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"height": 28', '"height": 32'))


def another_input(folder):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["graphs"]["generator"]["inputs"] = ["z", "truncation"]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate_graph, "sha256"),
        (truncate_graph_and_sign_it, "cannot be loaded"),
        (no_graph, "cannot be read"),
        (bad_manifest, "not a manifest"),
        (another_name, "says other@1"),
        (another_size, r"\[1, 28, 28, 1\]"),
        (another_input, "truncation"),
    ],
)
def test_a_spoiled_folder_fails_with_its_reason_and_the_others_are_served(models, spoil, reason):
    spoil(models / "gan-mnist" / "1")
    catalog = load(models)
    with pytest.raises(ModelFailed, match=reason) as error:
        catalog.get("gan-mnist")
    assert "\n" not in str(error.value)
    assert catalog.get("dcgan-fashion").generate([1]).shape == (1, 28, 28, 1)


def test_a_new_version_that_fails_leaves_the_old_one_as_the_default(models):
    truncate_graph(add_version(models, "gan-mnist", "2"))
    catalog = load(models)
    assert catalog.get("gan-mnist").manifest.version == "1"
    with pytest.raises(ModelFailed):
        catalog.get("gan-mnist@2")


@pytest.mark.parametrize("wanted", ["nope", "nope@1", "gan-mnist@7", "gan-mnist@", ""])
def test_what_is_not_there_is_not_found_and_the_error_says_what_is(models, wanted):
    with pytest.raises(ModelNotFound, match=r"there are: "):
        load(models).get(wanted)


def test_a_folder_that_may_not_be_read_harms_no_other(models, caplog, monkeypatch):
    from pathlib import Path

    (models / "lost+found").mkdir()
    listing = Path.iterdir

    def iterdir(path):
        if path.name == "lost+found":  # Root may read everything, so the refusal is made here.
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    catalog = load(models)
    assert [entry.name for entry in catalog.entries] == sorted(TINY)
    assert "lost+found is left out: Permission denied" in caplog.text


def test_an_empty_or_missing_folder_has_no_entries(tmp_path):
    assert load(tmp_path).entries == ()
    assert load(tmp_path / "missing").entries == ()
