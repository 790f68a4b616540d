"""Opens a model to invert images, and prepares the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.runtime.errors import UserError
from service.runtime.images.decoding import ImageDecodeError, decode_image
from service.runtime.images.fitting import fit_image
from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.models.model import Model
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.evaluation.models import model_folder
from training.latent.generator import LatentGenerator
from training.latent.inversion.passes import Pixels

_MAX_ROWS = 32


class InversionError(UserError):
    """Images cannot be inverted with these options. The message is one line."""


def open_generator(target: str, models: Path) -> LatentGenerator:
    """Open a model by name, ``name@version`` or folder.

    Raises InversionError if `target` is not a model, NoLatentSpace and GraphNotDifferentiable.
    """
    folder = model_folder(target, models)
    if folder is None:
        raise InversionError(f"{target} is not a model folder: it has no {MANIFEST_FILE}")
    plan = ExecutionPlan(workers=1, threads=usable_cpus(), max_rows=_MAX_ROWS)
    return LatentGenerator(Model(folder, Provider.CPU, plan))


def read_images(paths: list[Path], spec: ImageSpec) -> Pixels:
    """Return image files in the size of a model, ``[N, H, W, C] uint8``.

    The center is cropped to the model's aspect ratio, and resized. Raises InversionError.
    """
    images = []
    for path in paths:
        try:
            image = decode_image(path.read_bytes(), max_pixels=None, formats=None)
        except OSError as error:
            raise InversionError(f"{path} cannot be read: {error.strerror or error}") from error
        except ImageDecodeError as error:
            raise InversionError(f"{path}: {error}") from error
        images.append(fit_image(image, spec).pixels)
    return np.stack(images)
