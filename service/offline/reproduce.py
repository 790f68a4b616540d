"""Reproduces images from the metadata in their files, and compares the result."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from service.runtime.errors import UserError
from service.runtime.generation import (
    Plan,
    edited_image_plan,
    execute,
    image_plan,
    mixing_grid_plan,
    mixing_plan,
    walk_plan,
)
from service.runtime.images import animation
from service.runtime.images.encoding import (
    ImageFormat,
    Pixels,
    encode,
    image_grid,
    read_provenance,
    resized,
)
from service.runtime.latent.editing import DirectionsChanged, Editing
from service.runtime.latent.interpolation import Interpolation
from service.runtime.latent.sources import LatentSource
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.catalog import (
    Catalog,
    Entry,
    ModelNotFound,
    find_encoder,
    load_entry,
)
from service.runtime.models.manifest import Manifest
from service.runtime.models.model import Model, ModelFailed
from service.runtime.onnx.sessions import Provider, plan_for
from service.runtime.request_fields import InvalidRequest
from service.runtime.text.prompt_vectors import with_prompt_vectors
from service.runtime.video import ffmpeg
from service.runtime.video.metadata import source_type_of, video_format_of, video_provenance
from service.runtime.video.walk_output import output_from_parameters

# Images per run, which bounds the memory for the activations of a long animation.
_BATCH_IMAGES = 16
# The metadata of every file of the service includes these fields.
IDENTITY = {"model", "version", "digest"}


class CannotReproduce(UserError):
    """The file has no usable metadata, or its model is not available."""


@dataclass(frozen=True)
class Reproduction:
    """A reproduced file, compared with the original.

    Attributes:
        regenerated: the content of the reproduced file.
        identical: whether the files are identical, byte for byte.
        different: the number of pixels that differ, out of `pixels`.
        largest: the largest difference of a value, from 0 to 255.
    """

    file: Path
    regenerated: bytes
    identical: bool
    pixels: int
    different: int
    largest: int

    @property
    def equal(self) -> bool:
        """Whether all pixels are equal."""
        return self.different == 0

    @property
    def summary(self) -> str:
        """The result as one line of text."""
        if self.identical:
            return "identical, byte for byte"
        if self.equal:
            return "equal in every pixel"
        return (
            f"differs in {self.different:,} of {self.pixels:,} pixels, "
            f"by at most {self.largest} of 255"
        )

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "file": str(self.file),
            "equal": self.equal,
            "identical": self.identical,
            "pixels": self.pixels,
            "different_pixels": self.different,
            "largest_difference": self.largest,
        }


def reproduce(file: Path, models: Path) -> Reproduction:
    """Generate `file` again on the CPU with its model, and compare. `models` is the models folder.

    Raises CannotReproduce.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CannotReproduce(f"{file} cannot be read: {error.strerror}") from error
    try:
        parameters, file_format, frames = _read(content)
    except UserError:
        raise
    except Exception as error:  # decoders may raise anything
        raise CannotReproduce(f"{file} cannot be read: it is not a valid image or video") from error
    if parameters is not None and "film" in parameters:
        raise CannotReproduce(
            f"{file} was made from the film {str(parameters['film'])[:100]}, which it does not "
            "contain: run ganymede sample --input again"
        )
    if parameters is None or frames is None:
        raise CannotReproduce(f"{file} has no Ganymede metadata")
    if "input" in parameters:
        raise CannotReproduce(
            f"{file} was made from an input image that it does not contain: send the input to "
            f"/v1/{str(parameters.get('task'))[:20]} again"
        )
    model = _load_model(file, parameters, models)
    try:
        if "walk" in parameters and parameters["walk"]["frames"] != len(frames):
            raise ValueError(
                f"expected {parameters['walk']['frames']} frames, the file has {len(frames)}"
            )
        _assert_fits(parameters, frames, model.manifest)
        marked = source_type_of(content) is not None
        regenerated = _render(model, parameters, file_format, marked=marked)
    except DirectionsChanged as error:
        raise CannotReproduce(f"{file} cannot be reproduced: {error}") from error
    except (
        InvalidRequest,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
    ) as error:
        raise CannotReproduce(f"{file} has invalid metadata: {error}") from error
    _, _, regenerated_frames = _read(regenerated)
    assert regenerated_frames is not None  # noqa: S101 - it has metadata
    if regenerated_frames.shape != frames.shape:
        raise CannotReproduce(
            f"{file} has the shape {frames.shape}, but its metadata describes "
            f"{regenerated_frames.shape}"
        )
    difference = np.abs(frames.astype(np.int16) - regenerated_frames).max(axis=-1)
    return Reproduction(
        file=file,
        regenerated=regenerated,
        identical=regenerated == content,
        pixels=difference.size,
        different=int(np.count_nonzero(difference)),
        largest=int(difference.max()),
    )


def read_parameters(content: bytes) -> dict[str, Any] | None:
    """Return the metadata of an image or a video, or None. Pixels are not decoded.

    Raises the errors of decoders, which may be anything, and VideoUnavailable.
    """
    if video_format_of(content) is not None:
        with ffmpeg.load().open(io.BytesIO(content)) as video:
            return video_provenance(video)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            return read_provenance(image)


def _load_model(file: Path, parameters: Mapping[str, Any], models: Path) -> Model:
    name = f"{parameters['model']}@{parameters['version']}"
    provider = Provider.CPU
    plan = plan_for(provider)
    folder = models / str(parameters["model"]) / str(parameters["version"])
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
    if model.digest != parameters["digest"]:
        raise CannotReproduce(
            f"{file} was made by a {name} with another digest: {parameters['digest'][:19]}…; "
            f"the model in {models} has {model.digest[:19]}…"
        )
    return model


def _read(content: bytes) -> tuple[dict[str, Any] | None, str, Pixels | None]:
    """Return the metadata of a file, its format, and its frames ``[frames, H, W, C]``.

    Files of other software are not decoded, because they may be of any size: the frames are None.
    """
    if (video_format := video_format_of(content)) is not None:
        with ffmpeg.load().open(io.BytesIO(content)) as video:
            parameters = video_provenance(video)
            if not parameters or "film" in parameters or not set(parameters) >= IDENTITY:
                return parameters, video_format, None
            decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            return parameters, video_format, np.stack(decoded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            parameters, pillow_format = read_provenance(image), str(image.format).lower()
            is_ours = parameters and set(parameters) >= IDENTITY
            return parameters, pillow_format, _frames(image) if is_ours else None


def _assert_fits(parameters: Mapping[str, Any], frames: Pixels, manifest: Manifest) -> None:
    """Raise ValueError if the parameters describe another size or more images than the file has.

    They may be hostile: this is known before anything is generated.
    """
    _, height, width, _ = frames.shape
    if "walk" not in parameters and "resized" in parameters:
        described = [int(side) for side in parameters["resized"]]
        if described != [width, height]:
            raise ValueError(f"resized is {described}, the file has {width}×{height} pixels")
    lists = [parameters.get(name, ()) for name in ("rows", "columns", "sources")]
    lists += [each for each in parameters.get("directions", {}).values() if isinstance(each, list)]
    images = math.prod(len(each) for each in lists if each)
    pixels_per_image = 1 if "resized" in parameters else manifest.image_spec.pixels
    if images > 1 and images * pixels_per_image > width * height:
        raise ValueError(f"{images:,} images do not fit into {width}×{height} pixels")


def _render(
    model: Model, parameters: Mapping[str, Any], file_format: str, *, marked: bool
) -> bytes:
    """Return the file that `parameters` describe, as earlier versions wrote it if not `marked`."""
    if "walk" in parameters:
        walk = Interpolation.from_parameters(parameters["walk"], model.manifest)
        output = output_from_parameters(model.manifest, parameters, file_format)
        identity = {name: parameters[name] for name in ("model", "version", "digest")}
        spec = output.spec(model.manifest, walk, identity)
        spec = spec if marked else replace(spec, source_type=None)
        positions = [walk.position(frame) for frame in range(walk.frames)]
        pixels = _execute(model, walk_plan(model.manifest, walk, positions))
        return animation.write(output.writer(spec), map(output.enlarge, pixels))
    pixels = _image(model, parameters)
    return encode(pixels, ImageFormat(file_format), parameters, marked=marked)


def _image(model: Model, parameters: Mapping[str, Any]) -> Pixels:
    """Return the image ``[H, W, C]`` that `parameters` describe."""
    manifest = model.manifest
    if "from" in parameters:
        keys = [LatentSource.from_parameters(parameters[end], manifest) for end in ("from", "to")]
        walk = Interpolation(
            tuple(keys), 2, loop=False, space=parameters["space"], path=parameters["path"]
        )
        position = (0, 1, float(parameters["at"]))
        (image,) = _execute(model, walk_plan(manifest, walk, [position]))
    elif "directions" in parameters:
        image = _edited(model, parameters)
    elif "rows" in parameters:
        mixing = StyleMixing.from_parameters(parameters, manifest)
        image = _execute(model, mixing_grid_plan(manifest, mixing))
    elif "row" in parameters:
        mixing = StyleMixing.from_parameters(parameters, manifest)
        (image,) = _execute(model, mixing_plan(manifest, [mixing]))
    else:
        source = LatentSource.from_parameters(parameters, manifest)
        if (spec := manifest.text_input) is not None:
            encoder = find_encoder(model.folder.parent.parent, spec, model.provider)
            (source,) = with_prompt_vectors([source], encoder)
        (image,) = _execute(model, image_plan(manifest, [source]))
    pixels: Pixels = image
    if "resized" in parameters:
        width, height = parameters["resized"]
        return resized(pixels, int(width), int(height))
    return pixels


def _edited(model: Model, parameters: Mapping[str, Any]) -> Pixels:
    """Return the image, or the grid of images, of latents that are moved along directions."""
    editing = Editing.from_parameters(parameters, model.manifest)
    sources, edits = (list(each) for each in zip(*editing.items(), strict=True))
    plan = edited_image_plan(model.manifest, sources, edits, model.direction_vectors)
    return image_grid(_execute(model, plan), *editing.shape)


def _execute(model: Model, plan: Plan[Pixels]) -> Pixels:
    return execute(plan, model.run, _BATCH_IMAGES)


def _frames(image: Image.Image) -> Pixels:
    """Return all frames ``[frames, H, W, 4]``."""
    frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    return np.stack(frames)
