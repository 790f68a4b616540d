"""Verifies the models, and generates an image with one of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.doctor.findings import Finding, error, fine
from service.runtime.formatting import format_size
from service.runtime.progress import StageProgress
from service.settings import Settings, address_of

if TYPE_CHECKING:
    from service.runtime.models.model import Model

_GET_MODELS = "add one with ganymede pull, import or export, or give the folder as --models"


def check_models(settings: Settings, show: StageProgress) -> Iterator[Finding]:
    """Load every model on its own, compare it with its golden images, and generate an image.

    The provider is the one that the service would use, or the CPU if that is not available.
    """
    from service.runtime.models.catalog import load_entry, model_folders  # noqa: PLC0415
    from service.runtime.onnx.sessions import (  # noqa: PLC0415
        Provider,
        ProviderUnavailable,
        pick_provider,
        plan_for,
    )

    if (address := address_of(settings.models)) is not None:
        yield fine(
            "models",
            f"at {address}: not checked here; ganymede serve fetches and verifies them",
            address=address,
        )
        return
    if not settings.models.is_dir():
        yield error("models", f"no such folder: {settings.models}", _GET_MODELS)
        return
    try:
        provider = pick_provider(settings.provider)
    except ProviderUnavailable:
        provider = Provider.CPU
    folders = list(model_folders(settings.models))
    counts = {"exact": 0, "near": 0, "unchecked": 0}
    sample: Model | None = None
    size = 0
    with _without_log_lines():
        for done, folder in enumerate(folders):
            show("verifying models", done, len(folders), f"{folder.parent.name}@{folder.name}")
            entry = load_entry(folder, provider, plan_for(provider))
            if entry.model is None:
                yield error(
                    "model",
                    f"{entry.id}: {entry.reason}",
                    "copy, import or export the model again, or remove its folder",
                    id=entry.id,
                    reason=entry.reason,
                )
                continue
            counts[entry.golden or "unchecked"] += 1
            size += entry.model.files_bytes
            # A model that needs no image is what most users try first.
            if sample is None or (sample.manifest.input and not entry.model.manifest.input):
                sample = entry.model
    show("verifying models", len(folders), len(folders))
    yield _summary(settings.models, len(folders), counts, size, provider)
    if sample is not None:
        yield check_image(sample)


def check_image(model: Model, seed: int = 0) -> Finding:
    """Generate an image, encode it, and check that it shows something."""
    from service.runtime.images.encoding import ImageFormat, encode  # noqa: PLC0415

    title = f"{model.manifest.name}@{model.manifest.version}"
    started = time.perf_counter()
    pixels = model.generate([seed])[0]
    file = encode(pixels, ImageFormat.PNG, {})
    milliseconds = (time.perf_counter() - started) * 1000
    height, width, _ = pixels.shape
    if pixels.min() == pixels.max():
        return error(
            "test image",
            f"{title}: all values of the image are {pixels.min()}",
            "the model or the provider is broken: try --provider cpu, or export the model again",
        )
    return fine(
        "test image",
        f"{title}, seed {seed}: {width}×{height}, {format_size(len(file))} as PNG, "
        f"in {milliseconds:.1f} ms on {model.provider}",
        model=title,
        width=width,
        height=height,
        ms=round(milliseconds, 1),
    )


def _summary(folder: Path, total: int, counts: dict[str, int], size: int, provider: str) -> Finding:
    loaded = sum(counts.values())
    if not loaded:
        text = f"{folder} contains no model" if not total else f"none of {total} can be served"
        return error("models", text, _GET_MODELS, loaded=0, **counts)
    text = f"{loaded} of {total} in {folder} load on {provider} ({format_size(size)} of graphs)"
    if counts["exact"]:
        text += f"; {counts['exact']} reproduce their golden images exactly"
    if counts["near"]:
        text += f"; {counts['near']} closely, as is usual on another CPU"
    if counts["unchecked"]:
        text += f"; {counts['unchecked']} have no golden images"
    return fine("models", text, loaded=loaded, **counts)


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Drop the log lines about models, which the findings repeat."""
    logger = logging.getLogger("ganymede")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
