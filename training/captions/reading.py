"""Captions of images, from the metadata files beside them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.images import DataOptions, ImageData, load_images
from training.data.pairs import held_out_options
from training.data.sources import DataError, stem
from training.data.sources.containers import list_files
from training.data.sources.labels import is_table, table_lines
from training.recipe.options import Options

# Prompts of sample sheets and previews.
_EXAMPLES = 12
# Columns of captions, in the order of preference.
_TEXT_FIELDS = ("text", "caption", "prompt", "description")
_TAG_FIELDS = ("tags", "keywords")
# A number at the end of a word distinguishes files, not what they show: "boots iron2".
_FILE_NUMBER = re.compile(r"(?<=[^\W\d_])\d+\b")


class CaptionOptions(Options):
    """Which captions an image has: its text, alone and with its tags, and with its style."""

    # The name of the text encoder, a model folder in `models/` (or in $GANYMEDE_MODELS).
    encoder: str = "wordllama"
    # Use captions with the tags that are not part of the text.
    tags: bool = True
    # Use captions that end with the class of the image, such as a drawing style.
    style: bool = False
    # Remove the numbers at the end of words, which distinguish files.
    strip_numbers: bool = False


@dataclass(frozen=True)
class Captions:
    """The captions of the images of an `ImageData`, row by row; the first is the text alone."""

    rows: tuple[tuple[str, ...], ...]

    def texts(self) -> tuple[str, ...]:
        """Return the text of each image, without tags and style."""
        return tuple(row[0] for row in self.rows)


def captioned(data: DataOptions, images: ImageData, options: CaptionOptions) -> Captions:
    """Return the captions of `images`, the images of `data`.

    Raises DataError if an image has no caption.
    """
    location = data.locate()
    if not isinstance(location, Path):
        raise DataError(f"captions are read from a folder or an archive, not from {location}")
    by_name = _described(location)
    if not by_name:
        raise DataError(
            f"{data.dataset_title} has no captions: expected metadata.jsonl or metadata.csv with "
            f"the columns file_name and one of {', '.join(_TEXT_FIELDS)}"
        )
    rows = []
    missing = []
    for row, name in enumerate(images.names):
        fields = next((by_name[key] for key in _keys(name) if key in by_name), None)
        if fields is None:
            missing.append(name)
            continue
        style = None
        if options.style and images.labels is not None:
            style = images.class_names[images.labels[row]]
        rows.append(_captions(fields, style, options))
    if missing:
        more = f" and {len(missing) - 1:,} more images have" if len(missing) > 1 else " has"
        raise DataError(f"{missing[0]}{more} no caption in the metadata of {data.dataset_title}")
    return Captions(tuple(rows))


def without_texts(
    images: ImageData, captions: Captions, excluded: Iterable[str]
) -> tuple[ImageData, Captions]:
    """Return the images whose text is not in `excluded`; case does not matter.

    A held-out text may also be that of other files, such as numbered variants.
    """
    names = {text.casefold() for text in excluded}
    kept = [row for row, text in enumerate(captions.texts()) if text.casefold() not in names]
    if len(kept) == len(images):
        return images, captions
    if not kept:
        raise DataError("every caption of the training images is also held out")
    note = (
        f"left out: {len(images) - len(kept):,} images whose caption is also that of a held-out "
        "image"
    )
    left, rows = select_rows(images, captions, np.array(kept))
    return replace(left, notes=(*images.notes, note)), rows


def select_rows(
    images: ImageData, captions: Captions, rows: NDArray[np.int64]
) -> tuple[ImageData, Captions]:
    """Return some of the images with their captions."""
    selected = replace(
        images,
        pixels=images.pixels[rows],
        labels=None if images.labels is None else images.labels[rows],
        names=tuple(images.names[row] for row in rows),
    )
    return selected, Captions(tuple(captions.rows[row] for row in rows))


def _described(location: Path) -> dict[str, Mapping[str, Any]]:
    """Return the fields of each described image by its path, its path without suffix and its stem.

    A stem that several lines have is left out.
    """
    by_name: dict[str, Mapping[str, Any]] = {}
    by_stem: dict[str, list[Mapping[str, Any]]] = {}
    for file in list_files(location).files:
        if not is_table(file):
            continue
        for name, fields in table_lines(file):
            if _text_of(fields):
                by_name[name] = fields
                by_stem.setdefault(stem(name), []).append(fields)
    unique = {f"*/{key}": lines[0] for key, lines in by_stem.items() if len(lines) == 1}
    return {**unique, **by_name}


def _keys(name: str) -> tuple[str, str, str]:
    """Return the keys under which an image may be described, the most exact first."""
    return name, posixpath.splitext(name)[0], f"*/{stem(name)}"


def _text_of(fields: Mapping[str, Any]) -> str:
    """Return the caption in the fields of an image, or an empty text."""
    for name in _TEXT_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
    return ""


def _captions(
    fields: Mapping[str, Any], style: str | None, options: CaptionOptions
) -> tuple[str, ...]:
    """Return the captions of one image without repetitions."""
    text = _text_of(fields)
    if options.strip_numbers:
        text = _FILE_NUMBER.sub("", text)
    captions = [text]
    tags = _other_tags(fields, text) if options.tags else []
    if tags:
        captions.append(f"{text}, {', '.join(tags)}")
    if style:
        captions += [f"{caption}, {style}" for caption in captions]
    return tuple(captions)


def _other_tags(fields: Mapping[str, Any], text: str) -> Sequence[str]:
    """Return the tags of an image that are not words of its text."""
    words = set(re.findall(r"\w+", text.casefold()))
    for name in _TAG_FIELDS:
        value = fields.get(name)
        tags = value.split(",") if isinstance(value, str) else value
        if isinstance(tags, list):
            found = [str(tag).strip() for tag in tags]
            return [tag for tag in found if tag and tag.casefold() not in words]
    return []


def held_out_images(
    data: DataOptions, options: CaptionOptions
) -> tuple[ImageData, Captions] | None:
    """Return the held-out images and their captions, or None if there are none.

    Raises DataError.
    """
    held_out = held_out_options(data)
    if held_out.split != "test":
        return None
    images = load_images(held_out)
    return images, captioned(held_out, images, options)


def held_out_texts(data: DataOptions, options: CaptionOptions) -> tuple[str, ...]:
    """Return the texts of the held-out images without repetitions; empty if there are none.

    Raises DataError.
    """
    held_out = held_out_images(data, options)
    return () if held_out is None else tuple(dict.fromkeys(held_out[1].texts()))


def example_prompts(data: DataOptions, options: CaptionOptions) -> list[str]:
    """Return a fixed choice of held-out texts; of training texts if none are held out.

    Raises DataError.
    """
    texts = held_out_texts(data, options) or tuple(
        dict.fromkeys(captioned(data, load_images(data), options).texts())
    )
    order = np.random.default_rng(0).permutation(len(texts))[:_EXAMPLES]
    return [texts[i] for i in order]
