"""Validates the fields of requests and converts them to `LatentSource`, `StyleMixing` and others.

Every entry point uses this module: the native routes, OpenAI's and KServe's, the jobs and the
command line. It is independent of HTTP and command-line syntax. Invalid input raises InvalidRequest
with the name of the field; each entry point reports it in its own format.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.interpolation import Interpolation, Path, Space
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import ClassWeights, LatentSource, can_blend
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import DISCRIMINATOR
from service.runtime.ranking import MIN_SHARE, CandidateGroup, Selection, candidate_groups
from service.runtime.request_fields import (
    ClassSelector,
    ClassValue,
    FloatsValue,
    InvalidRequest,
    LayersValue,
    SourceFields,
    SourceParser,
    TransformValue,
    WeightsValue,
    cannot_blend,
    index_or_name,
    layer_weights,
    style_space,
)

MAX_RESIZED_SIDE = 16_384


def generate_sources(
    manifest: Manifest,
    *,
    max_images: int,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[FloatsValue] | None = None,
    w: Sequence[FloatsValue] | None = None,
    images: Sequence[SourceFields] | None = None,
    class_: ClassValue | Sequence[ClassSelector] | None = None,
    blend: WeightsValue | None = None,
    truncation: float | Sequence[float] | None = None,
    transform: TransformValue | None = None,
) -> list[LatentSource]:
    """Return one source per image: `n` consecutive seeds, or one source for each item of a list.

    The other fields apply to every image that does not override them. Raises InvalidRequest.
    """
    lists = {"seeds": seeds, "z": z, "w": w, "images": images}
    prefix, items = _listed_sources(manifest, n, seed, lists, max_images)
    classes = _per_image(class_, len(items), "class")
    truncations = _per_image(truncation, len(items), "truncation")
    parser = SourceParser(manifest)
    default_transform = parser.transform(transform, "transform")
    sources = []
    for i, fields in enumerate(items):
        path = f"{prefix}.{i}." if prefix else ""
        source = parser.source(fields, path, i, classes[i], truncations[i], blend)
        own_transform = parser.transform(fields.transform, f"{path}transform")
        matrix = default_transform if own_transform is None else own_transform
        sources.append(source if matrix is None else replace(source, transform=matrix))
    return sources


def class_sources(
    manifest: Manifest,
    *,
    max_images: int,
    classes: Mapping[str, int] | None = None,
    per_class: int | None = None,
    blend: WeightsValue | None = None,
    n: int | None = None,
    seed: int | None = None,
    truncation: float | None = None,
) -> list[LatentSource]:
    """Return the sources of class-conditional sampling: counts of `classes`, `per_class` of every
    class, or `n` of a `blend`. Raises InvalidRequest.
    """
    parser = SourceParser(manifest)
    names = parser.class_names("model")
    if sum(option is not None for option in (classes, per_class, blend)) != 1:
        raise InvalidRequest("classes", "give exactly one of classes, per_class and blend")
    if n is not None and blend is None:
        raise InvalidRequest("n", "only for a blend; classes and per_class imply the count")
    weights: list[ClassWeights]
    if blend is not None:
        total = n or 1
        assert_at_most(total, max_images, "n", manifest)
        weights = [parser.blend(blend, "blend")] * total
    else:
        counts = classes or dict.fromkeys(names, per_class or 0)
        total = sum(counts.values())
        assert_at_most(total, max_images, "classes", manifest)
        weights = [
            {parser.class_index(name, "classes"): 1.0}
            for name, count in counts.items()
            for _ in range(count)
        ]
    limit = parser.truncation(truncation, "truncation")
    return [
        LatentSource(each, classes=weights[i], truncation=limit)
        for i, each in enumerate(consecutive_seeds(seed, total))
    ]


def image_selection(
    manifest: Manifest, rank: Selection | None, **others: object
) -> Selection | None:
    """Return the selection of images by their score, or None if none is requested.

    `others` are the fields that cannot be combined with it, by name. Raises InvalidRequest.
    """
    if rank is None:
        return None
    if DISCRIMINATOR not in manifest.graphs:
        raise InvalidRequest(
            "rank",
            f"{manifest.name} has no discriminator; models with one list `discriminator` in "
            "/v1/models, and ganymede export --discriminator adds it",
        )
    if not MIN_SHARE <= rank.share <= 1:
        raise InvalidRequest("rank", f"expected a share from {MIN_SHARE} to 1, got {rank.share:g}")
    discriminator = manifest.discriminator
    if rank.method == "rejection" and (discriminator is None or discriminator.calibration is None):
        raise InvalidRequest(
            "rank", f"the scores of {manifest.name} are not calibrated for rejection sampling"
        )
    for name, value in others.items():
        if value is not None:
            raise InvalidRequest(
                name.rstrip("_"),
                "cannot be combined with rank, which selects among consecutive seeds from seed",
            )
    return rank


def first_seed(seed: int | None, count: int) -> int:
    """Return `seed`, or a random seed that is followed by `count` - 1 others if it is None."""
    return secrets.randbelow(MAX_SEED - count + 2) if seed is None else seed


def selection_candidates(
    sources: Sequence[LatentSource], selection: Selection, first: int, max_images: int
) -> list[CandidateGroup]:
    """Return the candidates for the images of `sources`, with seeds from `first`.

    Raises InvalidRequest for more than `max_images` candidates, or seeds out of range.
    """
    groups = candidate_groups(sources, first, selection)
    last = groups[-1].seeds.stop - 1
    count = last - first + 1
    if count > max_images:
        images = "images" if len(sources) > 1 else "image"
        raise InvalidRequest(
            "rank",
            f"{len(sources)} {images} at a share of {selection.share:g}: to be selected from "
            f"{count:,} candidates; expected at most {max_images}: request fewer images, or start "
            "a job",
        )
    if last > MAX_SEED:
        raise InvalidRequest("seed", f"the last candidate would be {last}, beyond {MAX_SEED}")
    return groups


def style_mixing(
    manifest: Manifest,
    *,
    max_images: int,
    rows: Sequence[SourceFields],
    columns: Sequence[SourceFields],
    layers: LayersValue,
    class_: ClassValue | None = None,
    truncation: float | None = None,
) -> StyleMixing:
    """Return the mix of every row with every column. Raises InvalidRequest."""
    space = style_space(manifest, "mix")
    count = len(rows) * len(columns)
    if count > max_images:
        raise InvalidRequest(
            "rows", f"expected at most {max_images} images, got {count} (rows × columns)"
        )
    parser = SourceParser(manifest)
    return StyleMixing(
        tuple(parser.sources(rows, "rows", class_, truncation)),
        tuple(parser.sources(columns, "columns", class_, truncation)),
        layer_weights(layers, space, manifest.name, "layers"),
    )


def interpolation(
    manifest: Manifest,
    *,
    max_frames: int,
    sources: Sequence[SourceFields],
    frames: int,
    loop: bool,
    space: Space | None = None,
    path: Path | None = None,
    class_: ClassSelector | None = None,
    truncation: float | None = None,
) -> Interpolation:
    """Return a walk through `sources`. Raises InvalidRequest."""
    if manifest.latent is None:
        raise InvalidRequest(
            "model", f"{manifest.name} takes images and has no latent space to walk through"
        )
    if manifest.task != "generate":
        raise InvalidRequest("model", f"{manifest.name} is for {manifest.task}, not for walks")
    if not 2 <= frames <= max_frames:
        raise InvalidRequest("frames", f"expected 2 to {max_frames}, got {frames}")
    if len(sources) < 2:
        raise InvalidRequest("sources", f"expected at least 2, got {len(sources)}")
    if len(sources) > frames:
        raise InvalidRequest("sources", f"{len(sources)} sources do not fit into {frames} frames")
    keys = SourceParser(manifest).sources(sources, "sources", class_, truncation)
    space = space or ("w" if manifest.styles else "z")
    if space == "w":
        style_space(manifest, "interpolate")
    else:
        if any(key.w is not None for key in keys):
            raise InvalidRequest("space", "a source given as w has no z; use space w")
        classes = {tuple(sorted((key.classes or {}).items())) for key in keys}
        if len(classes) > 1 and not can_blend(manifest):
            raise InvalidRequest("sources", f"{cannot_blend(manifest)}; use one class for all")
    path = path or ("spherical" if space == "z" else "linear")
    return Interpolation(tuple(keys), frames, loop=loop, space=space, path=path)


def image_source(
    manifest: Manifest, *, seed: int, class_: str | None, truncation: float | None
) -> LatentSource:
    """Return the source for an image URL, in which the class is text. Raises InvalidRequest."""
    selector = None if class_ is None else index_or_name(class_, manifest.classes)
    return SourceParser(manifest).source(SourceFields(seed), "", 0, selector, truncation)


def truncation_value(manifest: Manifest, truncation: float | None) -> float | None:
    """Return the truncation, or the model's default. Raises InvalidRequest."""
    return SourceParser(manifest).truncation(truncation, "truncation")


def direction_name(manifest: Manifest, direction: str | None) -> str | None:
    """Return the direction of an image-to-image model, by default its first; None if it has none.

    Raises InvalidRequest.
    """
    directions = manifest.input.directions if manifest.input else ()
    if direction is None:
        return directions[0] if directions else None
    if direction not in directions:
        known = f"available: {', '.join(directions)}" if directions else f"{manifest.name} has none"
        raise InvalidRequest("direction", f"unknown direction {direction[:50]!r}; {known}")
    return direction


def job_seeds(
    *, count: int | None, seeds: tuple[int, int] | None, seed: int | None
) -> tuple[int, int]:
    """Return the first seed and the number of images of a job, from `count` and `seed`, or from
    the range `seeds`, first to last inclusive. Raises InvalidRequest.
    """
    if seeds is not None:
        if count is not None or seed is not None:
            raise InvalidRequest("seeds", "cannot be combined with a count or a first seed")
        first, last = seeds
        if last < first:
            raise InvalidRequest("seeds", f"expected A-B with B at least A, got {first}-{last}")
        count = last - first + 1
    elif count is None:
        raise InvalidRequest("count", "missing: give the number of images, or a range of seeds")
    else:
        first = seed or 0
    if count < 1:
        raise InvalidRequest("count", f"expected at least 1, got {count}")
    if first < 0 or first + count - 1 > MAX_SEED:
        raise InvalidRequest(
            "seeds", f"expected seeds from 0 to {MAX_SEED:,}, got {count:,} seeds from {first}"
        )
    return first, count


def job_classes(
    manifest: Manifest,
    classes: Sequence[ClassSelector] | WeightsValue | None,
) -> tuple[tuple[int, ...] | None, dict[int, float] | None]:
    """Return the classes of a job: a list to cycle through, or weights to draw from; one is None.

    `balanced` cycles through all classes, unless the model has a class of that name. Raises
    InvalidRequest.
    """
    if classes is None:
        return None, None
    parser = SourceParser(manifest)
    names = parser.class_names("classes")
    if isinstance(classes, Mapping):
        return None, parser.weights(classes, "classes")
    if isinstance(classes, str):
        if classes == "balanced" and classes not in names:
            return tuple(range(len(names))), None
        classes = [classes]
    if not classes:
        raise InvalidRequest("classes", "expected at least one class")
    selectors = [index_or_name(str(each), names) for each in classes]
    return tuple(parser.class_index(each, "classes") for each in selectors), None


def job_layers(manifest: Manifest, layers: Sequence[str] | None) -> dict[int, float] | None:
    """Return the layers that take the styles of a second source, each with weight 1.

    Raises InvalidRequest.
    """
    if layers is None:
        return None
    if (space := manifest.styles) is None:
        raise InvalidRequest("mix", f"{manifest.name} has no styles to mix")
    selectors = [index_or_name(layer, space.groups) for layer in layers]
    return layer_weights(selectors, space, manifest.name, "mix")


def job_size(size: tuple[int, int] | None, image: ImageFormat) -> tuple[int, int] | None:
    """Return the width and height to resize to. Raises InvalidRequest."""
    if size is None:
        return None
    limit = min(MAX_RESIZED_SIDE, image.longest_side)
    if not all(1 <= side <= limit for side in size):
        raise InvalidRequest(
            "resize", f"expected sides of 1 to {limit:,} pixels, got {size[0]}x{size[1]}"
        )
    return size


def _listed_sources(
    manifest: Manifest,
    n: int | None,
    seed: int | None,
    lists: Mapping[str, Sequence[Any] | None],
    max_images: int,
) -> tuple[str, list[SourceFields]]:
    """Return the source fields of each image, and the name of their field.

    The name is empty if the items of the field have no fields of their own.
    """
    options: dict[str, Any] = {"seed": seed, **lists}
    names = [name for name, value in options.items() if value is not None]
    if len(names) > 1:
        raise InvalidRequest(names[1], f"give {names[0]} or {names[1]}, not both")
    if names in ([], ["seed"]):
        count = n or 1
        assert_at_most(count, max_images, "n", manifest)
        return "", [SourceFields(each) for each in consecutive_seeds(seed, count)]
    (name,) = names
    values = options[name]
    if n is not None and n != len(values):
        raise InvalidRequest("n", f"is {n}, but {name} has {len(values)} items")
    if len(values) > max_images:
        raise InvalidRequest(name, f"expected 1 to {max_images} {name}, got {len(values)}")
    match name:
        case "images":
            return name, list(values)
        case "seeds":
            return "", [SourceFields(value) for value in values]
        case "z":
            return "", [SourceFields(z=value) for value in values]
        case _:
            return "", [SourceFields(w=value) for value in values]


def _per_image(value: Any, count: int, field: str) -> Sequence[Any]:
    """Return `value` if it is a list of `count` items; repeat any other value `count` times.

    Raises InvalidRequest for a list of another length.
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(field, f"has {len(value)} items for {count} images")
    return value


def assert_at_most(count: int, maximum: int, field: str, manifest: Manifest) -> None:
    """Raise InvalidRequest if a request is for more outputs of a model than the maximum."""
    if count > maximum:
        kind = manifest.output.kind
        raise InvalidRequest(field, f"expected at most {maximum} {kind}, got {count}")


def consecutive_seeds(first: int | None, count: int) -> Sequence[int]:
    """Return `count` consecutive seeds, starting at `first`, or at a random seed if it is None."""
    first = first_seed(first, count)
    last = first + count - 1
    if last > MAX_SEED:
        raise InvalidRequest("seed", f"the last seed would be {last}, greater than {MAX_SEED}")
    return range(first, first + count)
