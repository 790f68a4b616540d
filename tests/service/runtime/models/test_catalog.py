import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.models.catalog import (
    Catalog,
    ModelFailed,
    ModelNotFound,
    RepositoryUnreadable,
    State,
    version_key,
)
from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.models.model import GoldenMatch
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.tiny_recipes import TINY

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
    from service.runtime.models.manifest import file_sha256

    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    graph = manifest["graphs"]["generator"]
    graph["sha256"] = file_sha256(folder / graph["file"])
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_folders_are_entries_except_hidden_ones(models):
    (models / "dcgan-fashion" / ".writing-x").mkdir()
    (models / ".cache" / "1").mkdir(parents=True)
    catalog = load(models)
    assert [entry.id for entry in catalog.entries] == [f"{name}@1" for name in sorted(TINY)]
    assert {entry.state for entry in catalog.entries} == {State.READY}


def test_bare_name_is_the_newest_version(models):
    for version in ("9", "10"):
        add_version(models, "gan-mnist", version)
    catalog = load(models)
    assert catalog.get("gan-mnist").manifest.version == "10"
    assert catalog.get("gan-mnist@9").manifest.version == "9"
    assert [e.version for e in catalog.versions("gan-mnist")] == ["10", "9", "1"]


def test_versions_are_sorted_numerically():
    versions = ["1.0", "10", "2", "1.0.1", "1"]
    assert sorted(versions, key=version_key) == ["1", "1.0", "1.0.1", "2", "10"]


def truncate_graph(folder):
    graph = folder / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


def truncate_graph_and_update_digest(folder):
    truncate_graph(folder)
    rewrite_digest(folder)


def remove_graph(folder):
    (folder / "generator.onnx").unlink()


def corrupt_manifest(folder):
    (folder / MANIFEST_FILE).write_text("{")


def change_name(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"gan-mnist"', '"other"', 1))


def change_image_size(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"height": 28', '"height": 32'))


def change_input(folder):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["graphs"]["generator"]["inputs"] = ["z", "truncation"]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        (truncate_graph, "sha256"),
        (truncate_graph_and_update_digest, "cannot be loaded"),
        (remove_graph, "cannot be read"),
        (corrupt_manifest, "not a valid manifest"),
        (change_name, "names other@1"),
        (change_image_size, r"\[1, 28, 28, 1\]"),
        (change_input, "truncation"),
    ],
)
def test_broken_folder_does_not_affect_others(models, corrupt, reason):
    corrupt(models / "gan-mnist" / "1")
    catalog = load(models)
    with pytest.raises(ModelFailed, match=reason) as error:
        catalog.get("gan-mnist")
    assert "\n" not in str(error.value)
    assert catalog.get("dcgan-fashion").generate([1]).shape == (1, 28, 28, 1)


def test_failed_version_is_not_the_default(models):
    truncate_graph(add_version(models, "gan-mnist", "2"))
    catalog = load(models)
    assert catalog.get("gan-mnist").manifest.version == "1"
    with pytest.raises(ModelFailed):
        catalog.get("gan-mnist@2")


@pytest.mark.parametrize("name", ["nope", "nope@1", "gan-mnist@7", "gan-mnist@", ""])
def test_unknown_model_error_lists_the_available_ones(models, name):
    with pytest.raises(ModelNotFound, match=r"available: "):
        load(models).get(name)


def test_unreadable_folder_does_not_affect_others(models, caplog, monkeypatch):
    (models / "lost+found").mkdir()
    listing = Path.iterdir

    def iterdir(path):
        if path.name == "lost+found":  # Root may read everything, so the error is raised here.
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    catalog = load(models)
    assert [entry.name for entry in catalog.entries] == sorted(TINY)
    assert "lost+found is ignored: Permission denied" in caplog.text


def test_empty_or_missing_folder_has_no_entries(tmp_path):
    assert load(tmp_path).entries == ()
    assert load(tmp_path / "missing").entries == ()


def changes_of(folder, before):
    catalog, changes = before.reload()
    named = {
        what: [entry.id for entry in getattr(changes, what)]
        for what in ("loaded", "kept", "failed", "removed")
    }
    return catalog, {what: ids for what, ids in named.items() if ids}


def test_reload_loads_only_new_models(models):
    before = load(models)
    add_version(models, "gan-mnist", "2")
    after, changes = changes_of(models, before)
    kept = [f"{name}@1" for name in sorted(TINY)]
    assert changes == {"loaded": ["gan-mnist@2"], "kept": kept}
    assert after.get("gan-mnist@1") is before.get("gan-mnist@1")
    assert after.get("gan-mnist").manifest.version == "2"
    assert before.get("gan-mnist").manifest.version == "1"  # The old catalog is unchanged.


def test_reload_unloads_removed_versions(models):
    add_version(models, "gan-mnist", "2")
    before = load(models)
    shutil.rmtree(models / "gan-mnist" / "2")
    after, changes = changes_of(models, before)
    assert changes["removed"] == ["gan-mnist@2"]
    assert after.get("gan-mnist").manifest.version == "1"
    with pytest.raises(ModelNotFound):
        after.get("gan-mnist@2")


def test_reload_loads_changed_folders(models):
    before = load(models)
    source, folder = models / "dcgan-fashion" / "1", models / "gan-mnist" / "1"
    shutil.copy(source / "generator.onnx", folder / "generator.onnx")
    manifest = json.loads((source / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"name": "gan-mnist"}))
    after, changes = changes_of(models, before)
    assert changes["loaded"] == ["gan-mnist@1"]
    expected = before.get("dcgan-fashion").generate([1, 2])
    assert (after.get("gan-mnist").generate([1, 2]) == expected).all()


def test_failed_change_keeps_the_previous_model(models):
    before = load(models)
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    content, times = graph.read_bytes(), graph.stat()
    graph.write_bytes(content[:-100])
    after, changes = changes_of(models, before)
    assert changes["failed"] == ["gan-mnist@1"]
    assert after.get("gan-mnist") is before.get("gan-mnist")
    entry = after.entry("gan-mnist")
    assert entry.state is State.READY
    assert "still serves the previous version" in entry.reason
    assert "sha256" in entry.reason
    graph.write_bytes(content)
    os.utime(graph, ns=(times.st_atime_ns, times.st_mtime_ns))
    repaired, changes = changes_of(models, after)
    assert changes == {"kept": [f"{name}@1" for name in sorted(TINY)]}
    assert repaired.entry("gan-mnist").reason is None


def test_reload_retries_failed_folders(models):
    truncate_graph(models / "gan-mnist" / "1")
    before = load(models)
    assert before.entry("gan-mnist").state is State.FAILED
    _, changes = changes_of(models, before)
    assert changes["failed"] == ["gan-mnist@1"]


def test_rewritten_equal_manifest_is_no_change(models):
    before = load(models)
    manifest = models / "gan-mnist" / "1" / MANIFEST_FILE
    manifest.write_bytes(manifest.read_bytes())
    (models / "gan-mnist" / "1" / "notes.txt").write_text("hello")
    _, changes = changes_of(models, before)
    assert set(changes) == {"kept"}


def test_missing_models_folder_keeps_all_models(models):
    before = load(models)
    models.rename(models.with_name("elsewhere"))
    with pytest.raises(RepositoryUnreadable, match="does not exist"):
        before.reload()


def test_unlistable_folder_keeps_its_models(models, monkeypatch):
    before = load(models)
    listing = Path.iterdir

    def iterdir(path):
        if path.name == "gan-mnist":
            raise OSError(5, "Input/output error")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    after, changes = changes_of(models, before)
    assert set(changes) == {"kept"}
    assert after.get("gan-mnist") is before.get("gan-mnist")


def test_golden_images_match_exactly(models):
    for entry in load(models).entries:
        assert entry.golden is GoldenMatch.EXACT
        assert len(entry.manifest.golden) == 4


def edit_golden(folder, change):
    """Change the golden image of seed 0, and update its digest in the manifest."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    with Image.open(folder / "golden.png") as image:
        pixels = np.array(image)
    height = manifest["image"]["height"]
    pixels[:height] = change(pixels[:height].astype(int)).clip(0, 255)
    Image.fromarray(pixels).save(folder / "golden.png")
    manifest["golden"][0]["sha256"] = hashlib.sha256(pixels[:height].tobytes()).hexdigest()
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def a_level_up(pixels):
    return pixels + 1


def inverted(pixels):
    return 255 - pixels


def one_corner_white(pixels):
    pixels[:4, :4] = 255 - pixels[:4, :4]
    return pixels


def test_near_golden_images_are_served_and_logged(models, caplog):
    edit_golden(models / "gan-mnist" / "1", a_level_up)
    with caplog.at_level("INFO"):
        catalog = load(models)
    assert catalog.entry("gan-mnist").golden is GoldenMatch.NEAR
    assert catalog.get("gan-mnist").generate([1]).shape == (1, 28, 28, 1)
    assert "close to the golden images" in caplog.text


@pytest.mark.parametrize("change", [inverted, one_corner_white])
def test_model_with_other_golden_images_is_refused(models, change):
    edit_golden(models / "gan-mnist" / "1", change)
    catalog = load(models)
    with pytest.raises(ModelFailed, match="seed 0 differs from the exported one"):
        catalog.get("gan-mnist")


def remove_golden_file(folder):
    (folder / "golden.png").unlink()


def write_invalid_golden_file(folder):
    (folder / "golden.png").write_bytes(b"not an image")


def change_golden_size(folder):
    Image.new("L", (28, 28)).save(folder / "golden.png")


def change_golden_mode(folder):
    Image.new("L", (28, 4 * 28)).save(folder / "golden.png", format="GIF")


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        (remove_golden_file, "cannot be read"),
        (write_invalid_golden_file, "cannot be read"),
        (change_golden_size, "does not contain 4 images"),
        (change_golden_mode, "cannot be read"),
    ],
)
def test_unreadable_golden_images_are_reported(models, corrupt, reason):
    folder = models / "gan-mnist" / "1"
    edit_golden(folder, a_level_up)  # With equal digests, the golden file would not be read.
    corrupt(folder)
    with pytest.raises(ModelFailed, match=reason):
        load(models).get("gan-mnist")


def test_golden_image_with_another_digest_is_reported(models):
    folder = models / "gan-mnist" / "1"
    text = json.loads((folder / MANIFEST_FILE).read_text())
    text["golden"][2]["sha256"] = "0" * 64
    (folder / MANIFEST_FILE).write_text(json.dumps(text))
    with pytest.raises(ModelFailed, match="does not contain the image of seed 2"):
        load(models).get("gan-mnist")


def test_model_without_golden_images_is_served(models):
    folder = models / "gan-mnist" / "1"
    text = json.loads((folder / MANIFEST_FILE).read_text())
    del text["golden"]
    (folder / MANIFEST_FILE).write_text(json.dumps(text))
    (folder / "golden.png").unlink()
    entry = load(models).entry("gan-mnist")
    assert (entry.state, entry.golden) == (State.READY, None)


@pytest.mark.parametrize(
    "golden",
    [{"class_index": 1}, {"truncation": 0.5}, {"seed": -1}, {"seed": 2**32}, {"sha256": "abc"}],
)
def test_impossible_golden_image_is_reported(models, golden):
    folder = models / "gan-mnist" / "1"
    text = json.loads((folder / MANIFEST_FILE).read_text())
    text["golden"][0] |= golden
    (folder / MANIFEST_FILE).write_text(json.dumps(text))
    with pytest.raises(ModelFailed, match=r"golden"):
        load(models).get("gan-mnist")


@pytest.mark.parametrize("name", ["generator.onnx", MANIFEST_FILE, "golden.png"])
def test_named_pipe_in_place_of_a_file_fails_instead_of_waiting(models, name):
    catalog = load(models)
    path = models / "gan-mnist" / "1" / name
    path.unlink()
    os.mkfifo(path)
    reloaded, changes = catalog.reload()
    assert reloaded.entry("gan-mnist").state is State.READY
    if name != "golden.png":  # Only read if the images differ from the golden ones.
        # The model that was loaded before keeps being served.
        assert reloaded.get("gan-mnist") is catalog.get("gan-mnist")
        assert [entry.id for entry in changes.failed] == ["gan-mnist@1"]
        assert "not a regular file" in changes.failed[0].reason


def test_bounds_texts_of_the_manifest(models):
    path = models / "cgan-fashion" / "1" / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    for field, value in {
        "summary": "x" * 20_000,
        "classes": ["x" * 201, *manifest["classes"][1:]],
    }.items():
        path.write_text(json.dumps(manifest | {field: value}))
        entry = load(models).entry("cgan-fashion")
        assert entry.state is State.FAILED
        assert field in entry.reason
    path.write_text(json.dumps(manifest | {"classes": ["日" * 200, *manifest["classes"][1:]]}))
    assert load(models).entry("cgan-fashion").state is State.READY
