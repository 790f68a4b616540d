"""Updates of model folders: atomic, and nothing but additions changes."""

import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from service.runtime.latent.directions import load_directions
from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import Manifest, ManifestError, file_sha256, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import (
    DIRECTIONS_FILE,
    TRAINABLE_FILE,
    Direction,
    Directions,
    Trainable,
)
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import W
from training.export.additions import AdditionError, update_model_folder
from training.export.additions import update as update_module

CARD = """# painted

An edited text.

| | |
|---|---|
| Task | generate |
"""


@pytest.fixture
def folder(tmp_path, drawn_repository) -> Path:
    """A model with styles, golden images and a card."""
    folder = Path(shutil.copytree(drawn_repository / "painted" / "1", tmp_path / "painted" / "1"))
    model = Model(folder, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=8))
    golden = tuple(write_golden(model, folder))
    manifest = model.manifest.model_copy(update={"golden": golden})
    (folder / "model.json").write_text(manifest.to_json())
    (folder / "README.md").write_text(CARD)
    return folder


def state(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file beside and in a model folder."""
    files = [path for path in folder.parent.rglob("*") if path.is_file()]
    return {
        str(p.relative_to(folder.parent)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def with_directions(*names: str, vector=None):
    """A change that writes directions with these names."""

    def change(part: Path, manifest: Manifest) -> Manifest:
        vectors = {name: np.ones(W, np.float32) if vector is None else vector for name in names}
        np.savez(part / DIRECTIONS_FILE, **vectors)
        items = []
        for name in names:
            (part / f"{name}.webp").write_bytes(b"strip")
            items.append(
                Direction(
                    name=name,
                    space="w",
                    method="sefa",
                    description="component 1",
                    layers=(0, 1, 2, 4),
                    strip=f"{name}.webp",
                )
            )
        directions = Directions(sha256=file_sha256(part / DIRECTIONS_FILE), items=tuple(items))
        return manifest.model_copy(update={"directions": directions})

    return change


def test_additions_are_written_and_the_rest_stays(folder):
    before, digest = state(folder), read_manifest(folder).digest
    mode = folder.stat().st_mode
    after = update_model_folder(folder, with_directions("smile", "age"))
    assert read_manifest(folder) == after
    assert after.digest == digest
    assert list(load_directions(folder, after)) == ["smile", "age"]
    changed = {name for name, sha in state(folder).items() if before.get(name) != sha}
    assert changed == {
        f"1/{name}"
        for name in ("model.json", "README.md", "directions.npz", "smile.webp", "age.webp")
    }
    assert folder.stat().st_mode == mode


def test_card_has_sections_before_the_table_and_keeps_its_text(folder):
    update_model_folder(folder, with_directions("smile"))
    card = (folder / "README.md").read_text()
    assert card.index("An edited text.") < card.index("## Directions") < card.index("| | |")
    assert "| `smile` | w, layers 0-2, 4 | sefa: component 1 |" in card
    assert "(smile.webp)" in card
    update_model_folder(folder, with_directions("age"))
    card = (folder / "README.md").read_text()
    assert card.count("## Directions") == 1
    assert "smile" not in card
    update_model_folder(
        folder, lambda _, manifest: manifest.model_copy(update={"directions": None})
    )
    assert (folder / "README.md").read_text() == CARD


def test_files_of_removed_additions_are_deleted(folder):
    update_model_folder(folder, with_directions("smile", "age"))
    update_model_folder(folder, with_directions("age"))
    assert not (folder / "smile.webp").exists()
    assert (folder / "age.webp").exists()
    update_model_folder(
        folder, lambda _, manifest: manifest.model_copy(update={"directions": None})
    )
    assert not (folder / "age.webp").exists()
    assert not (folder / DIRECTIONS_FILE).exists()


def rename_model(part: Path, manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"name": "other"})


def change_graph(part: Path, manifest: Manifest) -> Manifest:
    (part / "synthesis.onnx").write_bytes((part / "mapping.onnx").read_bytes())
    return manifest


def append_to_graph_in_place(part: Path, manifest: Manifest) -> Manifest:
    with (part / "synthesis.onnx").open("ab") as file:
        file.write(b"more")
    return manifest


def delete_golden_images(part: Path, manifest: Manifest) -> Manifest:
    (part / "golden.png").unlink()
    return manifest


def forget_vectors(part: Path, manifest: Manifest) -> Manifest:
    after = with_directions("smile")(part, manifest)
    (part / DIRECTIONS_FILE).unlink()
    return after


def forget_strip(part: Path, manifest: Manifest) -> Manifest:
    after = with_directions("smile")(part, manifest)
    (part / "smile.webp").unlink()
    return after


def forget_weights(part: Path, manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"trainable": Trainable(sha256="0" * 64)})


def other_weights(part: Path, manifest: Manifest) -> Manifest:
    (part / TRAINABLE_FILE).write_bytes(b"weights")
    return manifest.model_copy(update={"trainable": Trainable(sha256="0" * 64)})


def invalid_manifest(part: Path, manifest: Manifest) -> Manifest:
    after = with_directions("smile")(part, manifest)
    items = tuple(item.model_copy(update={"layers": (99,)}) for item in after.directions.items)
    directions = after.directions.model_copy(update={"items": items})
    return after.model_copy(update={"directions": directions})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_model, "must not change name"),
        (change_graph, "must not change synthesis.onnx"),
        (append_to_graph_in_place, "must not change synthesis.onnx"),
        (delete_golden_images, "must not change golden.png"),
        (forget_vectors, "directions.npz cannot be read"),
        (forget_strip, "smile.webp, which was not written"),
        (forget_weights, "trainable.safetensors, which was not written"),
        (other_weights, "trainable.safetensors differs from the manifest"),
        (invalid_manifest, "directions.smile"),
        (with_directions("smile", vector=np.zeros(W, np.float32)), "not only zeros"),
        (with_directions("smile", vector=np.full(W, np.nan, np.float32)), "finite"),
        (with_directions("smile", vector=np.ones(W + 1, np.float32)), "expects float32 [10]"),
        (with_directions("smile", vector=np.ones(W, np.float64)), "expects float32 [10]"),
    ],
)
def test_refuses_broken_folders_and_keeps_the_old_one(folder, change, message):
    before = state(folder)
    with pytest.raises(AdditionError) as caught:
        update_model_folder(folder, change)
    assert message in str(caught.value)
    assert state(folder) == before


def test_refuses_images_that_differ_from_the_golden_ones(folder):
    manifest = read_manifest(folder)
    golden = tuple(each.model_copy(update={"seed": each.seed + 1}) for each in manifest.golden)
    (folder / "model.json").write_text(manifest.model_copy(update={"golden": golden}).to_json())
    before = state(folder)
    with pytest.raises(AdditionError, match="cannot be used: "):
        update_model_folder(folder, with_directions("smile"))
    assert state(folder) == before


def test_errors_of_the_change_keep_the_old_folder(folder):
    update_model_folder(folder, with_directions("smile"))
    before = state(folder)

    def change(part: Path, _: Manifest) -> Manifest:
        # In place, as NumPy and PyTorch write files.
        (part / DIRECTIONS_FILE).write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        update_model_folder(folder, change)
    assert state(folder) == before


def test_concurrent_updates_do_not_lose_additions(folder):
    def add(name: str):
        def change(part: Path, manifest: Manifest) -> Manifest:
            old = [item.name for item in manifest.directions.items] if manifest.directions else []
            return with_directions(*old, name)(part, manifest)

        return change

    names = ["a", "b", "c", "d"]
    threads = [
        threading.Thread(target=update_model_folder, args=(folder, add(name))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(load_directions(folder, read_manifest(folder))) == names


def test_folder_that_is_a_link_stays_one(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    update_model_folder(link, with_directions("smile"))
    assert link.is_symlink()
    assert read_manifest(folder).directions is not None


def test_file_systems_that_cannot_exchange_folders(folder, monkeypatch):
    monkeypatch.setattr(update_module, "_RENAME_EXCHANGE", 1 << 20)  # Not a known flag.
    update_model_folder(folder, with_directions("smile"))
    assert read_manifest(folder).directions is not None
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_missing_folder(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        update_model_folder(tmp_path / "none", with_directions("smile"))
