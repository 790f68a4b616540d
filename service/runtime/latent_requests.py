"""Validates the fields of edits and inversions; see `service.runtime.requests` for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.runtime.formatting import counted
from service.runtime.latent.editing import Editing
from service.runtime.latent.inversion import MAX_TRIED_CLASSES
from service.runtime.latent.sources import LatentSource
from service.runtime.models.manifest import Manifest
from service.runtime.request_fields import (
    ClassSelector,
    InvalidRequest,
    LayersValue,
    SourceParser,
    direction_amounts,
    index_or_name,
    layer_weights,
    no_directions,
    style_space,
)


def editing(
    manifest: Manifest,
    sources: Sequence[LatentSource],
    *,
    max_images: int,
    directions: Mapping[str, float | Sequence[float]],
    layers: LayersValue | None = None,
) -> Editing:
    """Return the edits of `sources`, with an amount or steps for each of `directions`.

    `layers` replace the layers of the directions. Raises InvalidRequest.
    """
    amounts = direction_amounts(manifest, directions)
    assert manifest.directions is not None  # noqa: S101 - checked by direction_amounts
    of_z = {item.name for item in manifest.directions.items if item.space == "z"} & set(amounts)
    if of_z and any(source.w is not None for source in sources):
        raise InvalidRequest(
            "directions", f"{min(of_z)} is a direction of z and cannot move a source given as w"
        )
    weights = None
    if layers is not None:
        if of_z:
            raise InvalidRequest("layers", f"{min(of_z)} is a direction of z, which has no layers")
        weights = layer_weights(layers, style_space(manifest, "edit"), manifest.name, "layers")
    edits = Editing(tuple(sources), amounts, manifest.directions.sha256, weights)
    if len(edits.steps) > 2:
        raise InvalidRequest("directions", "expected steps for at most two directions")
    if len(edits.steps) == 2 and len(sources) > 1:
        raise InvalidRequest(
            "directions", f"steps of two directions need one source, got {len(sources)}"
        )
    rows, columns = edits.shape
    if rows * columns > max_images:
        raise InvalidRequest(
            "directions", f"expected at most {max_images} images, got {rows * columns}"
        )
    return edits


def inversion_classes(
    manifest: Manifest, *, class_: ClassSelector | None, images: int, max_images: int
) -> list[int]:
    """Return the classes that an inversion tries: the given one, or all of them.

    The result is empty for a model that needs none. Raises InvalidRequest.
    """
    if class_ is not None:
        SourceParser(manifest).class_names("class")
        if manifest.styles is not None:
            raise InvalidRequest("class", f"{manifest.name} inverts to w, which includes the class")
        if isinstance(class_, str):
            class_ = index_or_name(class_, manifest.classes)
        return [SourceParser(manifest).class_index(class_, "class")]
    if manifest.styles is not None or not manifest.classes:
        return []
    count = len(manifest.classes)
    limit = min(MAX_TRIED_CLASSES, max_images // images)
    if count > limit:
        raise InvalidRequest(
            "class",
            f"missing: {manifest.name} has {count} classes, and for "
            f"{counted(images, 'image')} at most {limit} are tried",
        )
    return list(range(count))


def job_directions(
    manifest: Manifest, directions: Mapping[str, float] | None, *, mix: object | None
) -> dict[str, float] | None:
    """Return how far the images of a job are moved along each direction. Raises InvalidRequest."""
    if directions is None:
        return None
    if mix is not None:
        raise InvalidRequest("directions", "cannot be combined with mix")
    if manifest.directions is None:
        raise InvalidRequest("directions", no_directions(manifest))
    amounts = direction_amounts(manifest, directions)
    # Sums of floats depend on their order, and equal jobs must give equal images.
    ordered = [(item.name, amounts.get(item.name)) for item in manifest.directions.items]
    return {name: amount for name, amount in ordered if isinstance(amount, float)}
