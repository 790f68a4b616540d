"""The latents of images in a folder, by the encoder of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.runtime.generation import execute, inversion_plan
from service.runtime.images.decoding import DecodedImage, ImageDecodeError
from service.runtime.images.fitting import fit_image
from service.runtime.latent.inversion import MAX_TRIED_CLASSES
from service.runtime.models.model import Model
from training.data.sources import ImageSource, open_source
from training.latent.directions.errors import DirectionsError
from training.latent.directions.latents import Floats, Pixels, Progress, Samples

_ROWS = 16


def check_encoder(model: Model) -> None:
    """Raise DirectionsError if a model cannot invert images."""
    manifest = model.manifest
    if manifest.encoder is None:
        raise DirectionsError(
            f"--from and --to: {manifest.name} has no encoder to invert images with; "
            f"ganymede train-encoder {manifest.name} adds one"
        )


def inverted_latents(
    model: Model, path: Path, classes: Sequence[int] | None, progress: Progress
) -> Samples:
    """Return the latents of all images in a folder or archive, without conditions.

    Images of any size are cropped and resized to that of the model. A model without styles tries
    all of its classes, or those in `classes`. Raises DirectionsError if an image cannot be read or
    the model has no encoder, and DataError if there are no images.
    """
    check_encoder(model)
    count = len(model.manifest.classes)
    tried = [] if model.manifest.styles else list(classes or range(count))
    if len(tried) > MAX_TRIED_CLASSES:
        raise DirectionsError(
            f"{model.manifest.name} has {len(tried):,} classes; select one by --class"
        )
    source = open_source(path, classes=())
    rows = max(_ROWS // max(len(tried), 1), 1)
    values: list[Floats] = []
    for start in range(0, len(source.names), rows):
        stop = min(start + rows, len(source.names))
        images = np.stack([_fitted(model, source, row, path) for row in range(start, stop)])
        plan = inversion_plan(model.manifest, images, tried)
        values += [found.latent for found in execute(plan, model.run, _ROWS)]
        progress(stop, len(source.names))
    return Samples(np.stack(values), {})


def _fitted(model: Model, source: ImageSource, row: int, path: Path) -> Pixels:
    """Return one image in the size of the model's images. Raises DirectionsError."""
    try:
        image = source.read(row)
        has_alpha = image.has_transparency_data
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    except (ImageDecodeError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise DirectionsError(f"{source.names[row]} in {path} cannot be read: {error}") from error
    alpha = pixels[..., 3] if has_alpha else None
    return fit_image(DecodedImage(pixels[..., :3], alpha), model.manifest.image_spec).pixels
