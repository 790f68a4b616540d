"""Images from images: translate, upscale, inpaint and colorize."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ganymede_client.images import Images
from ganymede_client.routes.generate import ImageFormat
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, fields, json_request, route
from ganymede_client.wire.uploads import ImageInputs, uploads
from ganymede_client.wire.values import to_json

Animated = Literal["refuse", "first"]

_ACCEPT = {"accept": "the client chooses the format of the response"}
_NO_MASK = {"mask": "only for inpaint", "boxes": "only for inpaint"}
_NO_DIRECTION = {"direction": "only for translate"}


@route("POST", "/v1/translate", left_out=_ACCEPT | _NO_MASK)
def translate(
    model: str,
    image: ImageInputs | None = None,
    *,
    samples: Mapping[str, Any] | None = None,
    direction: str | None = None,
    animated: Animated = "refuse",
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Translate images from one domain to another.

    Args:
        model: ``name``, or ``name@version``.
        image: one image or several: Pillow images, arrays ``uint8 [H, W, C]``, paths, open files,
            or the content of PNG, JPEG or WebP files.
        samples: images that another model generates, instead of `image`: `model`, and `seeds`, or
            `seed` and `n`, with `class` and `truncation`.
        direction: for a model with several; default: its first.
        animated: whether an animation is refused, or its first frame is used.
        format: how the files of the images are encoded.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    return _call(
        "/v1/translate", model, image, samples, animated, format, c2pa, fields(direction=direction)
    )


@route("POST", "/v1/upscale", left_out=_ACCEPT | _NO_MASK | _NO_DIRECTION)
def upscale(
    model: str,
    image: ImageInputs | None = None,
    *,
    samples: Mapping[str, Any] | None = None,
    animated: Animated = "refuse",
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Increase the resolution of images. The arguments are those of `translate`."""
    return _call("/v1/upscale", model, image, samples, animated, format, c2pa)


@route("POST", "/v1/colorize", left_out=_ACCEPT | _NO_MASK | _NO_DIRECTION)
def colorize(
    model: str,
    image: ImageInputs | None = None,
    *,
    samples: Mapping[str, Any] | None = None,
    animated: Animated = "refuse",
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Add color to gray images. The arguments are those of `translate`."""
    return _call("/v1/colorize", model, image, samples, animated, format, c2pa)


@route("POST", "/v1/inpaint", left_out=_ACCEPT | _NO_DIRECTION)
def inpaint(
    model: str,
    image: ImageInputs | None = None,
    *,
    mask: ImageInputs | None = None,
    boxes: Sequence[Sequence[int]] | None = None,
    samples: Mapping[str, Any] | None = None,
    animated: Animated = "refuse",
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Fill the masked areas of images.

    `mask` is white where pixels are filled, in the same forms as `image` or as arrays of booleans:
    one for all images, or one for each. `boxes` are the areas to fill as ``[x, y, width, height]``
    in pixels, instead of a mask. The other arguments are those of `translate`.
    """
    return _call(
        "/v1/inpaint", model, image, samples, animated, format, c2pa, fields(boxes=boxes), mask=mask
    )


def _call(
    path: str,
    model: str,
    image: ImageInputs | None,
    samples: Mapping[str, Any] | None,
    animated: Animated,
    image_format: ImageFormat,
    c2pa: bool | None,
    others: Mapping[str, Any] | None = None,
    mask: ImageInputs | None = None,
) -> Call[Images]:
    images, masks = uploads(image, "image"), uploads(mask, "mask")
    if bool(images) == (samples is not None):
        raise ValueError("image: expected either an image or samples")
    wire_format = "zip" if image_format == "png" else image_format
    body = fields(model=model, animated=animated, format=wire_format, c2pa=c2pa, **(others or {}))
    if samples is not None:
        body["samples"] = fields(**samples)
        if masks:
            body["mask"] = [base64.b64encode(each.content).decode() for each in masks]
        return Call(json_request("POST", path, body), parsing.images)
    # A form holds files as they are; in JSON, base64 would enlarge them by a third.
    form = {
        name: value if isinstance(value, str) else to_json(value).decode()
        for name, value in body.items()
    }
    return Call(Request("POST", path, form=form, files=[*images, *masks]), parsing.images)
