"""Writes a prepared data set as a folder or a ZIP archive, with labels and a record."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from service import __version__
from service.runtime.files import CannotWrite
from training.data.class_folders import class_folders
from training.data.inspection.report import DataReport, image_name
from training.data.inspection.scan import Progress, ScannedImage, in_threads, reason
from training.data.preparation.conversion import SUFFIXES, Conversion, convert
from training.data.preparation.options import PreparationError, PreparationOptions
from training.data.preparation.selection import Selection
from training.data.sources import ImageSource
from training.data.sources.files import PREPARATION_JSON
from training.data.sources.labels import DATASET_JSON

# Images in a folder of a data set without classes.
_FOLDER_IMAGES = 1000
# Suffixes of archives that are not written. A folder of such a name would be misleading.
_OTHER_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def check_out(out: Path, location: Path | str) -> None:
    """Check where the prepared data set is written.

    Raises PreparationError if `out` exists and is not empty, would be part of the data, or has the
    suffix of an archive other than ZIP.
    """
    if out.name.lower().endswith(_OTHER_ARCHIVES):
        raise PreparationError(
            f"--out: {out} has the suffix of an archive that is not written; use .zip, or a folder"
        )
    if out.exists() and (not out.is_dir() or out.suffix.lower() == ".zip" or any(out.iterdir())):
        raise PreparationError(f"--out: {out} already exists and is not empty")
    if out.resolve().is_relative_to(Path(location).expanduser().resolve()):
        raise PreparationError(f"--out: {out} would be part of the data; choose another folder")


def write_prepared(
    out: Path,
    report: DataReport,
    selection: Selection,
    options: PreparationOptions,
    sources: Mapping[str, ImageSource],
    progress: Progress,
) -> dict[str, Any]:
    """Write the selected images to `out`, a folder or a ZIP archive by its suffix.

    Each split is a folder with `dataset.json`, the labels as NVIDIA's dataset tool writes them plus
    `class_names`, and `metadata.jsonl`, which names the original of each image. `preparation.json`
    is the record, which is returned. `out` appears only when it is complete. Raises
    PreparationError if an image can no longer be read, and CannotWrite.
    """
    folders = class_folders(report.class_names)
    changes: dict[str, list[str]] = {}
    counts: dict[str, Mapping[str, int]] = {}
    done = 0
    with _writing(out) as write:
        for split, images in selection.by_split.items():
            prefix = f"{split}/" if split else ""
            labels: list[tuple[str, int]] = []
            lines: list[str] = []
            for number, (image, converted) in enumerate(_converted(images, sources, options)):
                folder = f"{number // _FOLDER_IMAGES:05}"
                if image.label is not None:
                    folder = folders[image.label]
                name = f"{folder}/img{number:08}{SUFFIXES[options.file_format]}"
                write(prefix + name, converted.file)
                row: dict[str, Any] = {"file_name": name}
                if image.label is not None:
                    labels.append((name, image.label))
                    row["class"] = report.class_names[image.label]
                lines.append(json.dumps({**row, "origin": image_name(image)}) + "\n")
                for change in converted.changes:
                    changes.setdefault(change, []).append(image_name(image))
                done += 1
                progress(done, selection.count)
            document = {"labels": labels or None, "class_names": list(report.class_names)}
            write(f"{prefix}{DATASET_JSON}", json.dumps(document).encode())
            write(f"{prefix}metadata.jsonl", "".join(lines).encode())
            by_label = Counter(image.label for image in images)
            counts[split or "all"] = {
                "" if label is None else report.class_names[label]: count
                for label, count in sorted(by_label.items(), key=lambda item: item[0] or 0)
            }
        record = {
            "ganymede": __version__,
            "source": report.location,
            "options": options.to_json(),
            "classes": list(report.class_names),
            "images": selection.count,
            "splits": counts,
            "changes": changes,
            "first_frame_only": [
                image_name(image)
                for images in selection.by_split.values()
                for image in images
                if image.frames > 1
            ],
            "scaled": [
                image_name(image)
                for images in selection.by_split.values()
                for image in images
                if image.scaled
            ],
            "dropped": dict(selection.dropped),
            "corrupt": report.to_json()["corrupt"],
            "unreadable": report.to_json()["unreadable"],
            "ignored": dict(report.ignored),
            "notes": list(report.notes),
        }
        write(PREPARATION_JSON, json.dumps(record, indent=2).encode())
    return record


def preparation_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what was left out and changed, one line each."""
    lines = []
    by_reason: dict[str, list[str]] = {}
    for name, why in record["dropped"].items():
        kind = why.partition(" of ")[0].removeprefix("is ")
        by_reason.setdefault(kind, []).append(f"{name} {why}")
    lines += [f"left out: {len(all_):,}, {_first(all_)}" for all_ in by_reason.values()]
    lines += [
        f"{change}: {len(names):,} image{'s' * (len(names) != 1)}"
        for change, names in record["changes"].items()
    ]
    enlarged = record["changes"].get("enlarged")
    if enlarged:
        lines.append(
            f"warning: {len(enlarged):,} of {record['images']:,} images are smaller than the size "
            f"and were enlarged, which blurs them; first: {enlarged[0]}"
        )
    return lines


def _first(names: Sequence[str]) -> str:
    return f"first: {names[0]}" if len(names) > 1 else names[0]


def _converted(
    images: Sequence[ScannedImage],
    sources: Mapping[str, ImageSource],
    options: PreparationOptions,
) -> Iterator[tuple[ScannedImage, Conversion]]:
    prepare = partial(_prepare, images, sources, options)
    for number, outcome in enumerate(in_threads(prepare, range(len(images)))):
        if isinstance(outcome, Exception):
            raise PreparationError(
                f"{image_name(images[number])} can no longer be read: {reason(outcome)}"
            ) from outcome
        yield images[number], outcome


def _prepare(
    images: Sequence[ScannedImage],
    sources: Mapping[str, ImageSource],
    options: PreparationOptions,
    number: int,
) -> Conversion:
    image = images[number]
    return convert(sources[image.split].read(image.row), options)


@contextmanager
def _writing(out: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Yield a function that writes a file of the data set. `out` appears when the block ends.

    Raises CannotWrite.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        try:
            if out.suffix.lower() == ".zip":
                # Uncompressed, as the images are compressed already.
                with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                    yield lambda name, data: archive.writestr(_member(name), data)
            else:
                part.mkdir()
                yield partial(_write_file, part)
            if out.is_dir():
                out.rmdir()
            part.replace(out)
        finally:
            _remove(part)
    except OSError as error:
        raise CannotWrite(out, error) from error


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member without the current time, so that equal data sets have equal archives."""
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o644 << 16
    return member


def _write_file(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
