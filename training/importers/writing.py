"""From a rebuilt generator to a model folder, through the one exporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import __version__
from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import (
    MANIFEST_FILE,
    ImageInput,
    ImportProvenance,
    Manifest,
    file_sha256,
)
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.export import fp16 as half
from training.export.exporter import check_name, export_graph, new_folder, next_version
from training.export.receptive_field import measure_receptive_field
from training.importers.formats.base import ConvertedModel, FormatInfo
from training.preview.grids import columns, grid, side_by_side

Pixels = NDArray[np.uint8]
_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)
# A sheet of large pictures shows fewer of them, and shows them smaller.
_SHEET_PIXELS = 2**21
_SHOWN = 64
_SHOWN_PAIRS = 9
_LARGEST_SHOWN = 256


@dataclass(frozen=True)
class Target:
    """Where a model goes, and what its author allows."""

    models: Path
    name: str
    version: str | None = None
    license: str = "unknown"
    # Whether weights are written in float16.
    half: bool = False


def write_model(
    source: Path,
    form: FormatInfo,
    converted: ConvertedModel,
    target: Target,
    pictures: Sequence[Pixels] = (),
    tell: Callable[[str], object] = lambda _: None,
) -> Path:
    """Write ``models/name/version``; return that folder. Raises ExportError, CannotWrite.

    `pictures` are shown on the sheet of a model that takes pictures, in place of drawn ones. What
    there is to know of the model that was written goes to `tell`.
    """
    version = target.version or next_version(target.models / target.name)
    folder = check_name(target.models, target.name, version)
    with new_folder(folder) as part:
        if converted.onnx_graphs is not None:
            graphs = converted.onnx_graphs.write(part)
        else:
            graphs = {
                piece.role: export_graph(piece, part / f"{piece.role}.onnx")
                for piece in converted.graph_specs
            }
        manifest = Manifest(
            name=target.name,
            version=version,
            task=converted.task,
            summary=converted.summary,
            graphs=graphs,
            image=converted.image,
            latent=converted.latent,
            input=converted.input,
            classes=converted.classes,
            styles=converted.styles,
            provenance=ImportProvenance(
                format=form.name,
                source_file=source.name,
                source_sha256=file_sha256(source),
                importer_version=__version__,
            ),
            license=target.license,
        )
        (part / MANIFEST_FILE).write_text(manifest.to_json())
        if target.half:
            whole = half.pictures(part)
            halved = half.halve(part, manifest.graphs)
            manifest = manifest.model_copy(update={"graphs": halved})
            (part / MANIFEST_FILE).write_text(manifest.to_json())
            parity = half.Parity.of(whole, half.pictures(part))
            parity.assert_good()
            tell(parity.summary)
            if parity.psnr < half.GOOD:
                tell(f"less than {half.GOOD:g} dB: look at the pictures before you serve them")
            converted = replace(converted, notes=[*converted.notes, f"{parity.summary}."])
        model = Model(part, Provider.CPU, _PLAN)
        given = manifest.input
        if given is not None and given.reach is not None:
            drawn = probe_images(range(4), given.side, given.channels)
            reach = measure_receptive_field(model, drawn)
            given = given.model_copy(update={"reach": reach})
            manifest = manifest.model_copy(update={"input": given})
        golden = write_golden(model, part)
        manifest = manifest.model_copy(update={"golden": tuple(golden)})
        (part / MANIFEST_FILE).write_text(manifest.to_json())
        sheet = _sheet(model, pictures)
        sheet.save(part / "preview.webp", format="WEBP", lossless=True)
        (part / "README.md").write_text(import_card(manifest, form, converted))
    return folder


def _sheet(model: Model, pictures: Sequence[Pixels]) -> Image.Image:
    manifest = model.manifest
    if manifest.input is not None:
        return side_by_side(_before_and_after(model, manifest.input, pictures))
    spec = manifest.image
    count = max(4, min(_SHOWN, _SHEET_PIXELS // spec.pixels))
    across = columns(len(manifest.classes)) if count == _SHOWN else None
    seeds = range(count)
    classes = [seed % len(manifest.classes) for seed in seeds] if manifest.classes else None
    truncations = model.truncations_of(seeds)
    made = [
        _smaller(model.generate([s], classes and [classes[s]], truncations and [truncations[s]])[0])
        for s in seeds
    ]
    return grid(np.stack(made), across)


def _before_and_after(model: Model, given: ImageInput, pictures: Sequence[Pixels]) -> list[Pixels]:
    before = [_fitted(picture, given) for picture in pictures[:_SHOWN_PAIRS]]
    if not before:
        before = list(probe_images(range(6), given.side, given.channels))
    masks = probe_masks(range(len(before)), given.side)
    after = []
    for image, mask in zip(before, masks, strict=True):
        feeds = {"image": image[None]} | ({"mask": mask[None]} if given.masked else {})
        after.append(model.run(given.roles[0], feeds)["pixels"][0])
    shown = np.stack(before)
    if given.masked:
        shown = np.where(masks[..., None] > 127, np.uint8(255), shown)
    return [shown, np.stack(after)]


def _fitted(picture: Pixels, given: ImageInput) -> Pixels:
    """Return the middle of a picture ``[H, W, C]``, of the side that the model was trained on."""
    image = Image.fromarray(picture).convert({1: "L", 3: "RGB", 4: "RGBA"}[given.channels])
    shortest = min(image.size)
    left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
    image = image.crop((left, top, left + shortest, top + shortest))
    resized = np.asarray(image.resize((given.side, given.side), Image.Resampling.LANCZOS))
    return resized if resized.ndim == 3 else resized[..., None]


def _smaller(picture: Pixels) -> Pixels:
    while max(picture.shape[:2]) > _LARGEST_SHOWN:
        height, width, channels = picture.shape
        halved = picture.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
        picture = halved.round().astype(np.uint8)
    return picture


def import_card(manifest: Manifest, form: FormatInfo, converted: ConvertedModel) -> str:
    """Return the card of an imported model, in Markdown."""
    made = manifest.provenance
    assert isinstance(made, ImportProvenance)  # noqa: S101 - for the type checker
    shown = "samples of the first seeds" if manifest.input is None else "before and after"
    lines = [
        f"# {manifest.name}",
        "",
        f"{manifest.summary}, imported from `{made.source_file}`.",
        "",
        f"![{shown}](preview.webp)",
        "",
        "| | |",
        "|---|---|",
        f"| Task | {manifest.task} |",
        f"| Format | {form.title} |",
        f"| Layout of | {form.origin} |",
        *(f"| {what.capitalize()} | {value} |" for what, value in converted.details),
        f"| Source | `{made.source_file}`, SHA-256 `{made.source_sha256}` |",
        f"| Imported by | Ganymede {made.importer_version} |",
        f"| Licence of the weights | {manifest.license} |",
    ]
    lines += ["", *(f"- {note}" for note in converted.notes)] if converted.notes else []
    return "\n".join(lines) + "\n"
