"""The file of a walk through latent space: its format, rate, size and quality, and its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from service.runtime.images.animation import (
    DEFAULT_QUALITY,
    WRITERS,
    AnimationSpec,
    AnimationWriter,
)
from service.runtime.images.encoding import Pixels, to_image
from service.runtime.latent.interpolation import Interpolation
from service.runtime.models.manifest import Manifest
from service.runtime.request_fields import InvalidRequest
from service.runtime.video import ffmpeg
from service.runtime.video.animation import VIDEO_WRITERS

EnlargeFilter = Literal["nearest", "bicubic"]

MAX_SCALE = 16
# Maximum side of an enlarged frame, in pixels.
MAX_ENLARGED_SIDE = 2048
# Formats that hold the frames as the model generates them.
_FRAME_FORMATS = ("zip", "npy", "frames")


@dataclass(frozen=True)
class WalkOutput:
    """How a walk is written.

    Attributes:
        format: a name in `WRITERS` or `VIDEO_WRITERS`; or frames, for single files.
        fps: frames per second.
        scale: the factor by which frames are enlarged.
        filter: the filter that enlarges them.
        quality: 1 to 100, for videos.
    """

    format: str
    fps: float
    scale: int = 1
    filter: EnlargeFilter = "nearest"
    quality: int = DEFAULT_QUALITY

    def spec(
        self, manifest: Manifest, walk: Interpolation, identity: Mapping[str, Any]
    ) -> AnimationSpec:
        """Return the spec for a writer. `identity` identifies the model in the metadata."""
        parameters: dict[str, Any] = {"walk": walk.parameters(manifest), "fps": self.fps}
        if self.scale > 1:
            parameters |= {"scale": self.scale, "filter": self.filter}
        if self.format in VIDEO_WRITERS:
            parameters["quality"] = self.quality
        return AnimationSpec(
            frames=walk.frames,
            height=self.scale * manifest.image_spec.height,
            width=self.scale * manifest.image_spec.width,
            channels=manifest.image_spec.channels,
            fps=self.fps,
            provenance={**identity, **parameters},
            frame_provenance=lambda i: {**identity, **walk.frame_parameters(i, manifest)},
            quality=self.quality,
        )

    def writer(self, spec: AnimationSpec, target: Path | None = None) -> AnimationWriter:
        """Return the writer for frames that `enlarge` returns.

        A video is written to `target`, if given, instead of being returned at the end.
        """
        if self.format in VIDEO_WRITERS:
            return VIDEO_WRITERS[self.format](spec, target)
        return WRITERS[self.format](spec)

    def enlarge(self, pixels: Pixels) -> Pixels:
        """Return a frame ``[H, W, C]`` as ``[scale · H, scale · W, C]``."""
        if self.scale == 1:
            return pixels
        if self.filter == "nearest":
            return pixels.repeat(self.scale, 0).repeat(self.scale, 1)
        height, width = (self.scale * side for side in pixels.shape[:2])
        enlarged = np.asarray(to_image(pixels).resize((width, height), Image.Resampling.BICUBIC))
        return enlarged.reshape(height, width, -1)


def output_from_parameters(
    manifest: Manifest, parameters: Mapping[str, Any], output_format: str
) -> WalkOutput:
    """Parse the metadata of a file that was written with `WalkOutput.spec`.

    Raises InvalidRequest, KeyError, TypeError and ValueError for metadata of another form.
    """
    if not 0 < float(parameters["fps"]) < math.inf:
        raise ValueError(f"fps is {parameters['fps']}")
    if parameters.get("filter", "nearest") not in get_args(EnlargeFilter):
        raise ValueError(f"filter is {parameters['filter']}")
    return walk_output(
        manifest,
        output_format,
        fps=parameters["fps"],
        scale=parameters.get("scale"),
        filter_=parameters.get("filter"),
        quality=parameters.get("quality"),
    )


def walk_output(
    manifest: Manifest,
    output_format: str,
    *,
    fps: float,
    scale: int | None = None,
    filter_: EnlargeFilter | None = None,
    quality: int | None = None,
) -> WalkOutput:
    """Return the output of a walk, with defaults for what is None. Raises InvalidRequest."""
    if output_format in VIDEO_WRITERS:
        if not ffmpeg.is_installed():
            raise InvalidRequest(
                "format", f"{output_format} needs the extra video: pip install 'ganymede[video]'"
            )
    elif quality is not None:
        raise InvalidRequest("quality", f"only for {' and '.join(VIDEO_WRITERS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise InvalidRequest("quality", f"expected 1 to 100, got {quality}")
    if filter_ is not None and scale is None:
        raise InvalidRequest("filter", "only with a scale")
    if scale is not None:
        if output_format in _FRAME_FORMATS:
            raise InvalidRequest(
                "scale", f"only for animations and videos, not for {output_format}"
            )
        side = max(manifest.image_spec.width, manifest.image_spec.height)
        limit = max(1, min(MAX_SCALE, MAX_ENLARGED_SIDE // side))
        if not 1 <= scale <= limit:
            raise InvalidRequest(
                "scale", f"expected 1 to {limit} for images of {side} pixels, got {scale}"
            )
    return WalkOutput(
        output_format, fps, scale or 1, filter_ or "nearest", quality or DEFAULT_QUALITY
    )
