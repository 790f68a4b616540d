"""The preview image of a model folder, made through the runtime that serves the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.models.manifest import ImageInput, Manifest
from service.runtime.models.model import Model
from service.runtime.models.probe_inputs import probe_images, probe_masks
from training.preview.grids import columns, grid, side_by_side
from training.preview.image_to_image import example_series
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]

_SAMPLES = 64
_PAIRS = 9
# Previews of imported models: large images are fewer, and reduced to this side.
_MAX_PREVIEW_PIXELS = 2**21
_MAX_SIDE = 256
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Preview:
    """An image of samples, and how the model card describes it."""

    image: Image.Image
    alt_text: str
    caption: str | None = None


def trained_preview(recipe: Recipe, model: Model) -> Preview:
    """Return the preview of a model trained here.

    Samples of a generator from noise. For an image-to-image model, inputs and outputs on held-out
    data, with the expected outputs if the data have them.
    """
    if model.manifest.input is None:
        return Preview(
            grid(model.generate(range(_SAMPLES)), columns(recipe.classes)),
            f"samples of the seeds 0 to {_SAMPLES - 1}",
            f"The preview shows the seeds 0 to {_SAMPLES - 1}, without selection.",
        )
    shown = "input, output and expected output"
    if model.directions:
        there, back = model.directions
        shown = f"input and output of {there}, then input and output of {back}"
    return Preview(
        side_by_side(example_series(recipe, model)),
        shown,
        f"From left to right: {shown}. The images were chosen at random, from held-out data if the "
        "data set has them.",
    )


def imported_preview(model: Model, images: Sequence[Pixels] = ()) -> Preview:
    """Return the preview of an imported model.

    Samples of a generator from noise. For an image-to-image model, inputs and outputs: of `images`
    ``[H, W, C]`` if there are any, else of synthetic ones.
    """
    if model.manifest.input is not None:
        return Preview(
            side_by_side(_inputs_and_outputs(model, model.manifest.input, images)),
            "inputs and outputs",
        )
    return Preview(_samples(model, model.manifest), "samples of the first seeds")


def _samples(model: Model, manifest: Manifest) -> Image.Image:
    count = max(4, min(_SAMPLES, _MAX_PREVIEW_PIXELS // manifest.image.pixels))
    in_a_row = columns(len(manifest.classes)) if count == _SAMPLES else None
    truncations = model.truncations_of(range(count))
    samples = []
    for seed in range(count):
        class_index = [seed % len(manifest.classes)] if manifest.classes else None
        truncation = [truncations[seed]] if truncations else None
        samples.append(_reduced(model.generate([seed], class_index, truncation)[0]))
    return grid(np.stack(samples), in_a_row)


def _inputs_and_outputs(
    model: Model, image_input: ImageInput, images: Sequence[Pixels]
) -> list[Pixels]:
    inputs = [_fitted(image, image_input) for image in images[:_PAIRS]]
    if not inputs:
        inputs = list(probe_images(range(6), image_input.side, image_input.channels))
    masks = probe_masks(range(len(inputs)), image_input.side)
    outputs = []
    for image, mask in zip(inputs, masks, strict=True):
        feeds = {"image": image[None]} | ({"mask": mask[None]} if image_input.masked else {})
        outputs.append(model.run(image_input.roles[0], feeds)["pixels"][0])
    shown = np.stack(inputs)
    if image_input.masked:
        shown = np.where(masks[..., None] > 127, np.uint8(255), shown)
    return [shown, np.stack(outputs)]


def _fitted(pixels: Pixels, image_input: ImageInput) -> Pixels:
    """Return the center of an image ``[H, W, C]``, resized to the model's training side."""
    image = Image.fromarray(pixels).convert(_MODES[image_input.channels])
    shortest = min(image.size)
    left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
    image = image.crop((left, top, left + shortest, top + shortest))
    side = image_input.side
    resized = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    return resized if resized.ndim == 3 else resized[..., None]


def _reduced(pixels: Pixels) -> Pixels:
    while max(pixels.shape[:2]) > _MAX_SIDE:
        height, width, channels = pixels.shape
        halved = pixels.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
        pixels = halved.round().astype(np.uint8)
    return pixels
