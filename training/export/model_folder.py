"""Writes model folders: graphs, golden outputs, preview, manifest and card.

Both trained and imported models are written here. A folder is written completely or not at all.
Before it gets its final name, it is loaded in the same way as in the service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.xmp import SourceType, save_options
from service.runtime.models.folders import new_folder
from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import MANIFEST_FILE, PREVIEW_FILE, Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import Graph
from service.runtime.models.parts.measurements import Quality
from service.runtime.onnx.sessions import ExecutionPlan, Provider
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
    additions: Sequence[Callable[[Path, Manifest], Manifest]] = (),
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
        additions: change the finished folder, such as by another graph, and return its manifest.
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
        for add in additions:
            manifest = add(part, manifest)
            _write_manifest(part, manifest)
        if additions:
            model = Model(part, Provider.CPU, plan)
        samples = preview(model)
        mark = save_options("WEBP", SourceType.of_sheet(shows_inputs=bool(manifest.input)))
        samples.image.save(part / PREVIEW_FILE, format="WEBP", lossless=True, **mark)
        for name, content in samples.files.items():
            (part / name).write_bytes(content)
        card = model_card(
            manifest,
            details=details,
            notes=notes,
            preview_text=samples.alt_text,
            preview_caption=samples.caption,
        )
        (part / "README.md").write_text(card)
    return folder


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
