"""Moves in latent space: edits along directions, and the inversion of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import ArrayLike, NDArray

from ganymede_client.images import Image, Images
from ganymede_client.routes.generate import ImageFormat, Layers
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, fields, json_request, route, segment
from ganymede_client.wire.uploads import ImageInputs, uploads
from ganymede_client.wire.values import (
    ClassSelector,
    SourceLike,
    Weights,
    class_value,
    encode_rows,
    encode_source_objects,
    named_weights,
)

# An amount for each direction, or a list of steps.
Amounts = Mapping[str, float | Sequence[float] | NDArray[Any]]


@route("POST", "/v1/edit", left_out={"format": "always an archive"})
def edit(
    model: str,
    directions: Amounts,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[ArrayLike] | None = None,
    w: Sequence[ArrayLike] | None = None,
    images: Sequence[SourceLike] | None = None,
    layers: Layers | None = None,
    class_: ClassSelector | Sequence[ClassSelector] | Weights | None = None,
    blend: Weights | None = None,
    truncation: float | Sequence[float] | None = None,
    transform: Any = None,
    return_: Sequence[Literal["z", "w"]] = (),
    c2pa: bool | None = None,
) -> Call[Images]:
    """Move images along named directions of a model; images are in row-major order.

    `directions` maps names to how far the latent is moved, in standard deviations: ``{"size":
    1.5}``. A list of steps gives an image for each step; lists for two directions give every
    combination, for one source. `Model.directions` lists the directions of a model.

    `layers` are moved instead of those of the directions: a group, an index, a list of these, or a
    mapping from these to weights. With `return_`, ``w`` for a model with styles and otherwise
    ``z``, the moved latent is in `Image.arrays` as ``edited_w`` or ``edited_z``. The other
    arguments are those of `generate`.
    """
    body = _edit(model, directions, layers, n, seed, seeds, z, w, images, class_)
    body |= fields(
        blend=blend and named_weights(blend),
        truncation=truncation,
        transform=transform,
        return_=list(return_) or None,
        format="zip",
        c2pa=c2pa,
    )
    last = [len(steps) for steps in directions.values() if isinstance(steps, Sequence | np.ndarray)]
    parse = partial(parsing.images, columns=last[-1] if last else None)
    return Call(json_request("POST", "/v1/edit", body), parse)


@route("POST", "/v1/edit", left_out={"return": "an image holds no arrays"})
def edit_grid(
    model: str,
    directions: Amounts,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[ArrayLike] | None = None,
    w: Sequence[ArrayLike] | None = None,
    images: Sequence[SourceLike] | None = None,
    layers: Layers | None = None,
    class_: ClassSelector | Sequence[ClassSelector] | Weights | None = None,
    blend: Weights | None = None,
    truncation: float | Sequence[float] | None = None,
    transform: Any = None,
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Image]:
    """Move images along named directions of a model, as one image.

    Every source is a row, and every step of a direction a column. With steps of two directions,
    those of the first are rows, and those of the second columns. One source without steps gives
    only the edited image. The arguments are those of `edit`.
    """
    body = _edit(model, directions, layers, n, seed, seeds, z, w, images, class_)
    body |= fields(
        blend=blend and named_weights(blend),
        truncation=truncation,
        transform=transform,
        format=format,
        c2pa=c2pa,
    )
    return Call(json_request("POST", "/v1/edit", body), parsing.image)


@route(
    "POST",
    "/v1/invert",
    left_out={
        "format": "always an archive",
        "accept": "the client chooses the format of the response",
    },
)
def invert(
    model: str,
    image: ImageInputs,
    *,
    class_: ClassSelector | None = None,
    animated: Literal["refuse", "first"] = "refuse",
    c2pa: bool | None = None,
) -> Call[Images]:
    """Find the latents whose images are most like the given images.

    Returns the reconstructions. Each holds its latent in `Image.arrays`, ``w [layers, w_dim]`` for
    a model with styles and otherwise ``z [z_dim]``, and can be the source of other requests. Its
    ``provenance.parameters["inversion"]`` states the distances, and how the image was changed to
    fit the model.

    Args:
        model: ``name``, or ``name@version``, with an encoder: see `Model.encoder`.
        image: one image or several, in the forms of `translate`. They are cropped around the center
            to the aspect ratio of the model's images, and resized.
        class_: the class of the images by name or index, for class-conditional models without
            styles; default: every class is tried, and the best kept.
        animated: whether an animation is refused, or its first frame is used.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    files = uploads(image, "image")
    if not files:
        raise ValueError("image: expected at least one image")
    # Text in a form is a name, or else an index, as in the address of an image.
    form = {name: str(value) for name, value in fields(class_=class_).items()}
    form |= {"model": model, "animated": animated, "format": "zip"}
    if c2pa is not None:
        form["c2pa"] = str(c2pa).lower()
    return Call(Request("POST", "/v1/invert", form=form, files=files), parsing.images)


@route(
    "GET",
    "/v1/models/{name}/directions/{direction}.webp",
    names={"model": "name"},
    left_out={"if-none-match": "nothing is stored that could be asked for again"},
)
def direction_strip(model: str, direction: str) -> Call[PIL.Image.Image]:
    """Get the image of a direction of a model: images of the same seeds along it."""
    path = f"/v1/models/{segment(model)}/directions/{segment(direction)}.webp"
    return Call(Request("GET", path), parsing.plain_image)


def _edit(
    model: str,
    directions: Amounts,
    layers: Layers | None,
    n: int | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    z: Sequence[ArrayLike] | None,
    w: Sequence[ArrayLike] | None,
    images: Sequence[SourceLike] | None,
    class_: Any,
) -> dict[str, Any]:
    return fields(
        model=model,
        n=n,
        seed=seed,
        seeds=seeds,
        z=encode_rows(z),
        w=encode_rows(w),
        images=None if images is None else encode_source_objects(images, model),
        class_=class_value(class_),
        directions=named_weights(directions),
        layers=named_weights(layers) if isinstance(layers, Mapping) else layers,
    )
