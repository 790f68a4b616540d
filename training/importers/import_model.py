"""Writes a converted model as a model folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service import __version__
from service.runtime.models.folders import new_version_folder
from service.runtime.models.manifest import Manifest, file_sha256
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import Graph
from service.runtime.models.parts.provenance import ImportProvenance
from service.runtime.models.probe_inputs import probe_images
from service.runtime.onnx.sessions import ExecutionPlan
from training.export.model_folder import write_model_folder
from training.export.preview import imported_preview
from training.importers.formats.base import ConvertedModel, FormatInfo
from training.importers.trainable import add_trainable, trainable_state

Pixels = NDArray[np.uint8]
_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)


@dataclass(frozen=True)
class ImportTarget:
    """Where an imported model is written, and under which license."""

    models: Path
    name: str
    # Default: the next free number.
    version: str | None = None
    license: str = "unknown"
    # Store the weights as fp16.
    fp16: bool = False
    # Keep the PyTorch weights beside the graphs, so that training can continue from them.
    trainable: bool = False


def import_model(
    source: Path,
    source_format: FormatInfo,
    converted: ConvertedModel,
    target: ImportTarget,
    preview_images: Sequence[Pixels] = (),
    report: Callable[[str], object] = lambda _: None,
) -> Path:
    """Write ``models/name/version`` and return that folder.

    `preview_images` are the inputs for the preview of an image-to-image model; default: synthetic
    images. `report` is called with messages for the user. Raises ExportError,
    ModelFolderError, CannotWrite, and ImportOptionError if the target is to be trainable and the
    file is a graph.
    """
    additions = []
    if target.trainable:
        additions.append(partial(add_trainable, trainable_state(converted)))
    folder = new_version_folder(target.models, target.name, target.version)

    def describe(graphs: dict[str, Graph]) -> Manifest:
        return Manifest(
            name=target.name,
            version=folder.name,
            task=converted.task,
            summary=converted.summary,
            graphs=graphs,
            image=converted.image,
            latent=converted.latent,
            input=converted.input,
            classes=converted.classes,
            styles=converted.styles,
            provenance=ImportProvenance(
                format=source_format.name,
                source_file=source.name,
                source_sha256=file_sha256(source),
                importer_version=__version__,
                assumptions=tuple(each.entry() for each in converted.assumptions),
                left_out=tuple(converted.left_out),
            ),
            license=target.license,
        )

    return write_model_folder(
        folder,
        converted.write_graphs,
        describe,
        plan=_PLAN,
        preview=lambda model: imported_preview(model, preview_images),
        probe_images=_probe_images,
        additions=additions,
        fp16=target.fp16,
        details=[
            ("Format", source_format.title),
            ("Layout of", source_format.origin),
            *((name.capitalize(), value) for name, value in converted.details),
        ],
        notes=converted.notes,
        report=report,
    )


def _probe_images(model: Model) -> Pixels:
    image_input = model.manifest.input
    assert image_input is not None  # noqa: S101 - for the type checker
    return probe_images(range(4), image_input.size, image_input.channels)
