"""Images from seeds, latents, styles and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from numpy.typing import ArrayLike

from ganymede_client.images import Animation, Image, Images
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, fields, json_request, query, route, segment
from ganymede_client.wire.values import (
    ClassSelector,
    Rank,
    SourceLike,
    Weights,
    class_value,
    encode_rows,
    encode_source_objects,
    encode_sources,
    named_weights,
)

# How the files of images are encoded: losslessly, except for JPEG.
ImageFormat = Literal["png", "webp", "jpeg"]
# Layers by index or by group: coarse, middle, fine; with weights as a mapping.
Layers = Any


@route("POST", "/v1/generate")
def generate(
    model: str,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[ArrayLike] | None = None,
    w: Sequence[ArrayLike] | None = None,
    images: Sequence[SourceLike] | None = None,
    class_: ClassSelector | Sequence[ClassSelector] | Weights | None = None,
    blend: Weights | None = None,
    truncation: float | Sequence[float] | None = None,
    transform: Any = None,
    rank: Rank | None = None,
    return_: Sequence[Literal["z", "w"]] = (),
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Generate images from seeds, latents or styles.

    Args:
        model: ``name``, or ``name@version``.
        n: the number of images; default: 1.
        seed: image i has the seed ``seed + i``; default: random.
        seeds: the seed of each image, instead of `n` and `seed`.
        z: a latent ``[z_dim]`` for each image, instead of seeds.
        w: styles ``[layers, w_dim]`` or ``[w_dim]`` for each image, instead of seeds.
        images: a complete source for each image, instead of seeds: seeds, `Source`, mappings, or
            images of the same model.
        class_: a class by name or index, one for each image, or weights from which the class of
            each image is drawn.
        blend: weights of classes that are blended, instead of `class_`.
        truncation: one number, or one for each image; only for models that support it.
        transform: a 3×3 matrix, or a mapping with `translate`, `rotate` and `scale`; only for
            models that support it.
        rank: the share of generated images to keep, the best by the model's discriminator: 0.25
            keeps the best quarter; or a mapping with `share` and `method`, ``rank`` or
            ``rejection``. Only for models with a discriminator, and for consecutive seeds; the
            images have their `seed` and their `score`.
        return_: the arrays to return with each image, in `Image.arrays`; only with the format png.
        format: how the files of the images are encoded.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    if return_ and format != "png":
        raise ValueError("return_: requires the format png")
    body = fields(
        model=model,
        n=n,
        seed=seed,
        seeds=seeds,
        z=encode_rows(z),
        w=encode_rows(w),
        images=None if images is None else encode_source_objects(images, model),
        class_=class_value(class_),
        blend=blend and named_weights(blend),
        truncation=truncation,
        transform=transform,
        rank=rank,
        return_=list(return_) or None,
        format=_wire_format(format),
        c2pa=c2pa,
    )
    return Call(json_request("POST", "/v1/generate", body), parsing.images)


@route("POST", "/v1/sample-classes")
def sample_classes(
    model: str,
    *,
    classes: Mapping[str, int] | None = None,
    per_class: int | None = None,
    blend: Weights | None = None,
    n: int | None = None,
    seed: int | None = None,
    truncation: float | None = None,
    rank: Rank | None = None,
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Generate images by class: `classes`, `per_class` or `blend`. For audio, see `audio`.

    Args:
        model: ``name``, or ``name@version``.
        classes: the number of images of each class, by name.
        per_class: the number of images of every class: a balanced set.
        blend: weights of classes; `n` images are generated between them.
        n: the number of images of a blend; default: 1.
        seed: image i has the seed ``seed + i``, counted over all classes; default: random.
        truncation: only for models that support it.
        rank: the share of generated images to keep, as for `generate`.
        format: how the files of the images are encoded.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    body = fields(
        model=model,
        classes=classes and named_weights(classes),
        per_class=per_class,
        blend=blend and named_weights(blend),
        n=n,
        seed=seed,
        truncation=truncation,
        rank=rank,
        format=_wire_format(format),
        c2pa=c2pa,
    )
    request = json_request("POST", "/v1/sample-classes", body)
    return Call(request, partial(parsing.images, columns=per_class))


@route("POST", "/v1/mix-styles")
def mix_styles(
    model: str,
    rows: Sequence[SourceLike],
    columns: Sequence[SourceLike],
    *,
    layers: Layers = "coarse",
    class_: ClassSelector | Weights | None = None,
    truncation: float | None = None,
    c2pa: bool | None = None,
) -> Call[Images]:
    """Mix the styles of every row with those of every column; images are in row-major order.

    Args:
        model: a model with styles: ``name``, or ``name@version``.
        rows: the base: seeds, `Source`, mappings, or images of the same model.
        columns: the sources of the styles that replace those of `layers`.
        layers: ``coarse``, ``middle``, ``fine``, a list of these and of indices, or a mapping from
            these to weights, from 0 (the row's style) to 1 (the column's).
        class_: for sources without a class of their own.
        truncation: for sources without a truncation of their own.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    request = _mixing(model, rows, columns, layers, class_, truncation, "zip", c2pa)
    return Call(request, partial(parsing.images, columns=len(columns)))


@route("POST", "/v1/mix-styles")
def mix_styles_grid(
    model: str,
    rows: Sequence[SourceLike],
    columns: Sequence[SourceLike],
    *,
    layers: Layers = "coarse",
    class_: ClassSelector | Weights | None = None,
    truncation: float | None = None,
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Image]:
    """Mix the styles of every row with those of every column, as one image.

    The images of the columns are above the grid and those of the rows on its left, as in the paper
    of StyleGAN. One row and one column give only the mixed image. The arguments are those of
    `mix_styles`.
    """
    request = _mixing(model, rows, columns, layers, class_, truncation, format, c2pa)
    return Call(request, parsing.image)


@route(
    "POST",
    "/v1/interpolate",
    left_out={
        "fps": "frames have no rate",
        "format": "always an archive",
        "scale": "an archive holds the frames as they are generated",
        "filter": "an archive holds the frames as they are generated",
        "quality": "an archive is lossless",
    },
)
def interpolate(
    model: str,
    sources: Sequence[SourceLike],
    *,
    frames: int = 60,
    space: Literal["z", "w"] | None = None,
    path: Literal["linear", "spherical"] | None = None,
    loop: bool = False,
    class_: ClassSelector | None = None,
    truncation: float | None = None,
) -> Call[Images]:
    """Interpolate between images in latent space; return the frames.

    Args:
        model: ``name``, or ``name@version``.
        sources: the key frames: seeds, `Source`, mappings, or images of the same model.
        frames: the number of frames, first and last included.
        space: where to interpolate; default: w for a model with styles, otherwise z.
        path: default: spherical in z, linear in w.
        loop: whether to return to the first source at the end.
        class_: for sources without a class of their own.
        truncation: for sources without a truncation of their own.
    """
    body = _walk(model, sources, frames, space, path, loop, class_, truncation, {"format": "zip"})
    return Call(json_request("POST", "/v1/interpolate", body), parsing.images)


@route("POST", "/v1/interpolate")
def animate(
    model: str,
    sources: Sequence[SourceLike],
    *,
    frames: int = 60,
    fps: float = 24.0,
    space: Literal["z", "w"] | None = None,
    path: Literal["linear", "spherical"] | None = None,
    loop: bool = False,
    class_: ClassSelector | None = None,
    truncation: float | None = None,
    scale: int | None = None,
    filter: Literal["nearest", "bicubic"] | None = None,  # noqa: A002 - the name of the field
    quality: int | None = None,
    format: Literal["webp", "gif", "png", "mp4", "webm"] = "webp",  # noqa: A002 - the name of the field
) -> Call[Animation]:
    """Interpolate between images in latent space; return an animation of `fps` frames per second.

    The formats ``mp4`` and ``webm`` are videos of `quality` 1 to 100 (default: 80), for which the
    service needs its extra `video`. `scale` enlarges the frames by a factor; `filter` is how, by
    default nearest. The other arguments are those of `interpolate`.
    """
    options = {"fps": fps, "scale": scale, "filter": filter, "quality": quality, "format": format}
    body = _walk(model, sources, frames, space, path, loop, class_, truncation, options)
    return Call(json_request("POST", "/v1/interpolate", body), parsing.animation)


@route(
    "GET",
    "/v1/models/{name}/images/{seed}.{extension}",
    names={"model": "name"},
    left_out={
        "if-none-match": "an image of a version never changes, so it need not be asked again"
    },
)
def image(
    model: str,
    seed: int,
    extension: Literal["png", "jpg", "jpeg", "webp"] = "png",
    *,
    version: str | None = None,
    class_: ClassSelector | None = None,
    truncation: float | None = None,
    prompt: str | None = None,
    c2pa: bool | None = None,
) -> Call[Image]:
    """Get the image of one seed, from its address.

    Args:
        model: ``name``, or ``name@version``.
        seed: the seed.
        extension: the format of the file.
        version: instead of a version in `model`.
        class_: a class by name or index; default: the seed modulo the number of classes.
        truncation: only for models that support it.
        prompt: for a text-to-image model, the description; default: an empty one.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    path = f"/v1/models/{segment(model)}/images/{int(seed)}.{segment(extension)}"
    parameters = query(
        version=version, class_=class_, truncation=truncation, prompt=prompt, c2pa=c2pa
    )
    return Call(Request("GET", path, parameters), parsing.image)


@route(
    "POST",
    "/v1/images/generations",
    left_out={
        "response_format": "always b64_json: `image` gets an image by its address",
        "stream": "streaming is not supported",
        **dict.fromkeys(
            [
                "background",
                "complexity",
                "moderation",
                "output_compression",
                "partial_images",
                "quality",
                "safety_identifier",
                "style",
                "user",
            ],
            "has no effect",
        ),
    },
)
def generate_from_prompt(
    model: str,
    prompt: str,
    *,
    n: int | None = None,
    size: str | None = None,
    seed: int | None = None,
    truncation: float | None = None,
    output_format: ImageFormat = "png",
    c2pa: bool | None = None,
) -> Call[Images]:
    """Generate images from a prompt, by OpenAI's API: a description, a class or a seed.

    Args:
        model: ``name``, or ``name@version``.
        prompt: a description for a text-to-image model, a class for a class-conditional one;
            otherwise a seed, or text that is hashed to one.
        n: the number of images; default: 1.
        size: ``auto``: the size of the model's images; or ``256x256``, to which they are resampled.
        seed: takes precedence over a seed in the prompt.
        truncation: only for models that support it.
        output_format: how the files of the images are encoded.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    body = fields(
        model=model,
        prompt=prompt,
        n=n,
        size=size,
        seed=seed,
        truncation=truncation,
        output_format=output_format,
        c2pa=c2pa,
        response_format="b64_json",
    )
    return Call(json_request("POST", "/v1/images/generations", body), parsing.openai_images)


def _wire_format(chosen: ImageFormat) -> str:
    """Return the format of a response with any number of images.

    An archive holds the files of PNG images as they are; JSON would enlarge them by a third.
    """
    return "zip" if chosen == "png" else chosen


def _mixing(
    model: str,
    rows: Sequence[SourceLike],
    columns: Sequence[SourceLike],
    layers: Layers,
    class_: ClassSelector | Weights | None,
    truncation: float | None,
    format: str,  # noqa: A002 - the name of the field
    c2pa: bool | None,
) -> Request:
    body = fields(
        model=model,
        rows=encode_sources(rows, model),
        columns=encode_sources(columns, model),
        layers=named_weights(layers) if isinstance(layers, Mapping) else layers,
        class_=class_value(class_),
        truncation=truncation,
        format=format,
        c2pa=c2pa,
    )
    return json_request("POST", "/v1/mix-styles", body)


def _walk(
    model: str,
    sources: Sequence[SourceLike],
    frames: int,
    space: str | None,
    path: str | None,
    loop: bool,
    class_: ClassSelector | None,
    truncation: float | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    return fields(
        model=model,
        sources=encode_sources(sources, model),
        frames=frames,
        space=space,
        path=path,
        loop=loop,
        class_=class_,
        truncation=truncation,
        **options,
    )
