"""Pictures made again from what their files say of themselves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from service.runtime.errors import UserError
from service.runtime.images import animation
from service.runtime.images.animation import WRITERS, AnimationSpec
from service.runtime.images.encoding import (
    ImageFormat,
    Pixels,
    encode,
    mixing_grid,
    read_provenance,
    resized,
)
from service.runtime.latent.interpolation import Interpolation, Place, feeds_at, rows_at
from service.runtime.latent.interpolation import Path as WalkPath
from service.runtime.latent.sources import LatentSource, feeds, transform_feed
from service.runtime.latent.style_mixing import StyleMixing, mix_styles
from service.runtime.models.catalog import Catalog, Entry, ModelNotFound, load_entry
from service.runtime.models.manifest import GENERATOR, MAPPING, TRANSFORM
from service.runtime.models.model import Model, ModelFailed
from service.runtime.onnx.sessions import Array, Provider, plan_for

# Pictures of one run, so that a long walk does not need all of its activations at a time.
_AT_ONCE = 16
# What every file says of itself.
_IDENTITY = {"model", "version", "digest"}


class CannotReproduce(UserError):
    """The file does not say how it was made, or the model that made it is not here."""


@dataclass(frozen=True)
class Reproduction:
    """A file made again. `largest` is the largest difference of a value, of 255."""

    file: Path
    remade: bytes
    identical: bool
    pixels: int
    different: int
    largest: int

    @property
    def equal(self) -> bool:
        """Whether every pixel is as it was."""
        return self.different == 0

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.identical:
            return "equal to the last byte"
        if self.equal:
            return "equal in every pixel"
        return (
            f"differs in {self.different:,} of {self.pixels:,} pixels, "
            f"by {self.largest} of 255 at most"
        )

    def as_json(self) -> dict[str, Any]:
        """What scripts read."""
        return {
            "file": str(self.file),
            "equal": self.equal,
            "identical": self.identical,
            "pixels": self.pixels,
            "different_pixels": self.different,
            "largest_difference": self.largest,
        }


def reproduce(file: Path, models: Path) -> Reproduction:
    """Make `file` again with the model of `models` that made it, on the CPU, and compare.

    Raises CannotReproduce.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CannotReproduce(f"{file} cannot be read: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                said, kind = read_provenance(image), image.format
                # What is none of ours is not decoded: it may be of any size.
                frames = _frames(image) if said and set(said) >= _IDENTITY else None
    except Exception as error:  # decoders raise what they like
        raise CannotReproduce(f"{file} cannot be read: not a picture, or a broken one") from error
    if said is None or frames is None:
        raise CannotReproduce(f"{file} does not say how it was made")
    if "input" in said:
        raise CannotReproduce(
            f"{file} was made of a picture that it does not hold: send that one to "
            f"/v1/{str(said.get('task'))[:20]} again"
        )
    model = _model(file, said, models)
    try:
        if "walk" in said and said["walk"]["frames"] != len(frames):
            raise ValueError(f"{said['walk']['frames']} frames, and there are {len(frames)}")
        remade = _remade(model, said, str(kind))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CannotReproduce(f"{file} says something that cannot be read: {error}") from error
    with Image.open(io.BytesIO(remade)) as image:
        again = _frames(image)
    if again.shape != frames.shape:
        raise CannotReproduce(
            f"{file} has the shape {frames.shape}, and what it says of itself {again.shape}"
        )
    difference = np.abs(frames.astype(np.int16) - again).max(axis=-1)
    return Reproduction(
        file=file,
        remade=remade,
        identical=remade == content,
        pixels=difference.size,
        different=int(np.count_nonzero(difference)),
        largest=int(difference.max()),
    )


def _model(file: Path, said: Mapping[str, Any], models: Path) -> Model:
    name = f"{said['model']}@{said['version']}"
    provider = Provider.CPU
    plan = plan_for(provider)
    folder = models / str(said["model"]) / str(said["version"])
    entries: tuple[Entry, ...] = ()
    if folder.is_dir() and folder.resolve().is_relative_to(models.resolve()):
        entries = (load_entry(folder, provider, plan),)
    catalog = Catalog(models, provider, plan, entries)
    try:
        model = catalog.get(name)
    except ModelNotFound as error:
        raise CannotReproduce(f"{file} was made by {name}, which is not in {models}") from error
    except ModelFailed as error:
        raise CannotReproduce(f"{file}: {error}") from error
    if model.digest != said["digest"]:
        raise CannotReproduce(
            f"{file} was made by a {name} of another digest: {said['digest'][:19]}…, "
            f"and the one in {models} is {model.digest[:19]}…"
        )
    return model


def _remade(model: Model, said: Mapping[str, Any], kind: str) -> bytes:
    """Return the file that `said` describes, in the format `kind` of Pillow's."""
    image = model.manifest.image
    if "walk" in said:
        walk = Interpolation.from_parameters(said["walk"], model.manifest)
        film = AnimationSpec(
            frames=walk.frames,
            height=image.height,
            width=image.width,
            channels=image.channels,
            fps=said["fps"],
            provenance=said,
            frame_provenance=lambda _: said,
        )
        places = [walk.position(frame) for frame in range(walk.frames)]
        pixels = _walked(model, walk.keys, walk.space, walk.path, places)
        return animation.write(WRITERS[kind.lower()](film), pixels)
    return encode(_picture(model, said), ImageFormat(kind.lower()), said)


def _picture(model: Model, said: Mapping[str, Any]) -> Pixels:
    manifest = model.manifest
    if "from" in said:
        ends = [LatentSource.from_parameters(said[end], manifest) for end in ("from", "to")]
        place = (0, 1, float(said["at"]))
        made = _walked(model, ends, said["space"], said["path"], [place])
    elif "row" in said or "rows" in said:
        made = _mixed(model, StyleMixing.from_parameters(said, manifest), grid="rows" in said)
    else:
        source = LatentSource.from_parameters(said, manifest)
        moved = transform_feed([source], manifest)
        if source.w is not None:
            made = model.synthesize(source.w[None], moved.get(TRANSFORM))
        else:
            made = _generated(model, feeds([source], manifest) | moved)
    picture: Pixels = made[0]
    if "resized" in said:
        width, height = said["resized"]
        return resized(picture, int(width), int(height))
    return picture


def _mixed(model: Model, wish: StyleMixing, *, grid: bool) -> Pixels:
    rows, columns = _styles(model, wish.rows), _styles(model, wish.columns)
    mixed = _synthesized(model, mix_styles(rows, columns, wish.layers))
    if not grid:
        return mixed
    return mixing_grid(_synthesized(model, columns), _synthesized(model, rows), mixed)[None]


def _walked(
    model: Model, keys: Sequence[LatentSource], space: str, path: WalkPath, places: Sequence[Place]
) -> Pixels:
    w = _styles(model, keys) if space == "w" else None
    parts = []
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        if w is None:
            parts.append(_generated(model, feeds_at(keys, some, path, model.manifest)))
        else:
            parts.append(model.synthesize(rows_at(w, some, path)))
    return np.concatenate(parts)


def _generated(model: Model, given: Mapping[str, Array]) -> Pixels:
    pixels: Pixels = model.run(GENERATOR, given)["pixels"]
    return pixels


def _styles(model: Model, sources: Sequence[LatentSource]) -> Array:
    rows = []
    for source in sources:
        if source.w is not None:
            rows.append(source.w)
        else:
            rows.append(model.run(MAPPING, feeds([source], model.manifest))["w"][0])
    return np.stack(rows)


def _synthesized(model: Model, w: Array) -> Pixels:
    parts = [model.synthesize(w[i : i + _AT_ONCE]) for i in range(0, len(w), _AT_ONCE)]
    return np.concatenate(parts)


def _frames(image: Image.Image) -> Pixels:
    """Return all frames ``[frames, H, W, 4]``."""
    frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    return np.stack(frames)
