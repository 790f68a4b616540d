"""Writes model folders: graphs, golden outputs, preview, manifest and card.

Both trained and imported models are written here. A folder is written completely or not at all.
Before it gets its final name, it is loaded in the same way as in the service.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.files import CannotWrite
from service.runtime.models.catalog import model_folders
from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import (
    MANIFEST_FILE,
    PREVIEW_FILE,
    SLUG,
    Graph,
    Manifest,
    Quality,
)
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.export.errors import ExportError
from training.export.fp16 import Fp16Difference, convert_to_fp16, sample_images
from training.export.model_card import model_card
from training.export.preview import Preview
from training.export.receptive_field import measure_receptive_field

Pixels = NDArray[np.uint8]


def write_model_folder(
    folder: Path,
    write_graphs: Callable[[Path], dict[str, Graph]],
    describe: Callable[[dict[str, Graph]], Manifest],
    *,
    plan: ExecutionPlan,
    preview: Callable[[Model], Preview],
    probe_images: Callable[[Model], Pixels],
    measure: Callable[[Model], tuple[Quality, ...]] | None = None,
    fp16: bool = False,
    details: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    report: Callable[[str], object] = lambda _: None,
) -> Path:
    """Write a model folder and return it.

    Args:
        folder: the folder to write, from `new_version_folder`.
        write_graphs: writes the graphs into a folder and returns their manifest entries by role.
        describe: returns the manifest for these graphs.
        plan: the execution plan of the model while it is measured and previewed.
        preview: returns the preview image of the model and its description.
        probe_images: returns images ``[N, H, W, C]`` for measuring the receptive field. Only called
            for image-to-image models.
        measure: returns the metrics for the manifest and the card. Default: none.
        fp16: store the weights as fp16. The difference is passed to `report` and added to the card.
        details: additional rows for the table of the card, as (name, value).
        notes: notes for the card.
        report: called with messages for the user.

    Raises ExportError, CannotWrite, and the errors of the callbacks. No folder is left behind in
    these cases.
    """
    with new_folder(folder) as part:
        manifest = describe(write_graphs(part))
        _write_manifest(part, manifest)
        if fp16:
            float32_images = sample_images(part)
            graphs = convert_to_fp16(part, manifest.graphs)
            manifest = manifest.model_copy(update={"graphs": graphs})
            _write_manifest(part, manifest)
            difference = Fp16Difference.between(float32_images, sample_images(part))
            difference.check()
            report(difference.summary)
            if difference.warning:
                report(difference.warning)
            notes = [*notes, f"{difference.summary}."]
        model = Model(part, Provider.CPU, plan)
        if manifest.input is not None:
            reach = measure_receptive_field(model, probe_images(model))
            image_input = manifest.input.model_copy(update={"reach": reach})
            manifest = manifest.model_copy(update={"input": image_input})
        if measure:
            manifest = manifest.model_copy(update={"quality": measure(model)})
        golden = write_golden(model, part)
        manifest = manifest.model_copy(update={"golden": tuple(golden)})
        _write_manifest(part, manifest)
        samples = preview(model)
        samples.image.save(part / PREVIEW_FILE, format="WEBP", lossless=True)
        card = model_card(
            manifest,
            details=details,
            notes=notes,
            preview_text=samples.alt_text,
            preview_caption=samples.caption,
        )
        (part / "README.md").write_text(card)
    return folder


def new_version_folder(models: Path, name: str, version: str | None = None) -> Path:
    """Return the path ``models/name/version`` for a new model. The folder is not created.

    The default version is the next free number. Raises ExportError if the name or the version is
    invalid, or if the folder exists.
    """
    version = version or _next_version(models / name)
    for value in (name, version):
        if not SLUG.fullmatch(value):
            raise ExportError(f"{value!r} cannot be used in a URL: use a-z, 0-9, '.', '_' and '-'")
    folder = models / name / version
    if folder.exists():
        raise ExportError(f"{folder} exists already; choose another --version")
    return folder


def _next_version(folder: Path) -> str:
    """Return the next version number of a model: the highest existing one plus 1."""
    versions = [path.name for path in model_folders(folder.parent) if path.parent == folder]
    numbers = [int(version) for version in versions if version.isdigit()]
    return str(max(numbers, default=0) + 1)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context manager that yields a hidden folder and renames it to `folder` at the end.

    The hidden folder is next to `folder`. It is deleted if the block raises. Raises CannotWrite.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    except OSError as error:
        raise CannotWrite(folder, error) from error


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
