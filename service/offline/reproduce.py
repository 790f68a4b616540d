"""Reproduces outputs from the metadata in their files, and compares the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.offline.originals import Original, read_mark, read_original
from service.runtime.audio.formats import AudioFormat
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
from service.runtime.outputs import drawn, encode_output
from service.runtime.request_fields import InvalidRequest
from service.runtime.text.prompt_vectors import PromptEncoder
from service.runtime.video.walk_output import output_from_parameters

# Images per run, which bounds the memory for the activations of a long animation.
_BATCH_IMAGES = 16


class CannotReproduce(UserError):
    """The file has no usable metadata, or its model is not available."""


@dataclass(frozen=True)
class Reproduction:
    """A reproduced file, compared with the original.

    Attributes:
        regenerated: the content of the reproduced file.
        identical: whether the files are identical, byte for byte.
        unit: what is compared: ``pixels``, or ``samples`` of audio.
        compared: the number of pixels or samples.
        different: how many of them differ.
        largest: the largest difference of a value.
        full_scale: the largest value: 255, or 32,767 for samples.
    """

    file: Path
    regenerated: bytes
    identical: bool
    unit: str
    compared: int
    different: int
    largest: int
    full_scale: int

    @property
    def equal(self) -> bool:
        """Whether all pixels or samples are equal."""
        return self.different == 0

    @property
    def rounding(self) -> int:
        """The largest difference between an output of a GPU and the same output of a CPU."""
        return self.full_scale // 255

    @property
    def summary(self) -> str:
        """The result as one line of text."""
        if self.identical:
            return "identical, byte for byte"
        if self.equal:
            return f"equal in every {self.unit.removesuffix('s')}"
        return (
            f"differs in {self.different:,} of {self.compared:,} {self.unit}, "
            f"by at most {self.largest:,} of {self.full_scale:,}"
        )

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "file": str(self.file),
            "equal": self.equal,
            "identical": self.identical,
            self.unit: self.compared,
            f"different_{self.unit}": self.different,
            "largest_difference": self.largest,
        }


def reproduce(file: Path, models: Path) -> Reproduction:
    """Generate `file` again on the CPU with its model, and compare. `models` is the models folder.

    Raises CannotReproduce.
    """
    content, original = _read(file)
    parameters, values = original.parameters, original.values
    assert parameters is not None  # noqa: S101 - checked by `_read`
    assert values is not None  # noqa: S101
    model = load_model(file, parameters, models)
    try:
        if "walk" in parameters and parameters["walk"]["frames"] != len(values):
            raise ValueError(
                f"expected {parameters['walk']['frames']} frames, the file has {len(values)}"
            )
        if original.is_audio and model.manifest.audio is None:
            raise ValueError(f"{model.manifest.name} returns no audio")
        marked = read_mark(content) is not None
        if original.is_audio:
            regenerated, made = _render_audio(model, original, marked=marked)
        else:
            _assert_fits(parameters, values, model.manifest)
            regenerated = _render(model, parameters, original.file_format, marked=marked)
            made = _values(regenerated)
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
    if made.shape != values.shape:
        raise CannotReproduce(
            f"{file} has the shape {values.shape}, but its metadata describes {made.shape}"
        )
    difference = np.abs(values.astype(np.int32) - made)
    if not original.is_audio:
        difference = difference.max(axis=-1)
    return Reproduction(
        file=file,
        regenerated=regenerated,
        identical=regenerated == content,
        unit="samples" if original.is_audio else "pixels",
        compared=difference.size,
        different=int(np.count_nonzero(difference)),
        largest=int(difference.max()),
        full_scale=32_767 if original.is_audio else 255,
    )


def _read(file: Path) -> tuple[bytes, Original]:
    """Return the content of a file that can be reproduced. Raises CannotReproduce."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CannotReproduce(f"{file} cannot be read: {error.strerror}") from error
    try:
        original = read_original(content, file)
    except UserError:
        raise
    except Exception as error:  # decoders may raise anything
        raise CannotReproduce(
            f"{file} cannot be read: it is not a valid image, video or sound"
        ) from error
    parameters = original.parameters
    if parameters is not None and "film" in parameters:
        raise CannotReproduce(
            f"{file} was made from the film {str(parameters['film'])[:100]}, which it does not "
            "contain: run ganymede sample --input again"
        )
    if parameters is None or original.values is None:
        raise CannotReproduce(f"{file} has no Ganymede metadata")
    if "input" in parameters:
        raise CannotReproduce(
            f"{file} was made from an input image that it does not contain: send the input to "
            f"/v1/{str(parameters.get('task'))[:20]} again"
        )
    return content, original


def load_model(file: Path, parameters: Mapping[str, Any], models: Path) -> Model:
    """Load the model that `parameters` of `file` name, on the CPU. Raises CannotReproduce."""
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


def _values(content: bytes) -> NDArray[Any]:
    """Return the frames of a file of this service."""
    values = read_original(content).values
    assert values is not None  # noqa: S101 - it has metadata
    return values


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
    if images > 1 and manifest.image is None:
        raise ValueError(f"{manifest.name} returns no images")
    pixels_per_image = 1 if "resized" in parameters or images == 1 else manifest.image_spec.pixels
    if images > 1 and images * pixels_per_image > width * height:
        raise ValueError(f"{images:,} images do not fit into {width}×{height} pixels")


def _render_audio(
    model: Model, original: Original, *, marked: bool
) -> tuple[bytes, NDArray[np.int16]]:
    """Return the file that the parameters describe, and its samples."""
    manifest, parameters = model.manifest, original.parameters or {}
    source = LatentSource.from_parameters(parameters, manifest)
    (samples,) = _execute(model, image_plan(manifest, [source]))
    kind = AudioFormat(original.file_format)
    return encode_output(manifest, samples, kind, parameters, marked=marked), samples


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
            (source,) = PromptEncoder(encoder)([source])
        (row,) = _execute(model, image_plan(manifest, [source]))
        image = drawn(manifest, row)
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
