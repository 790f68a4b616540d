"""Finds directions, measures them, and makes their strips."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent.directions import load_directions
from service.runtime.models.folders import slug
from service.runtime.models.manifest import Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import Direction
from service.runtime.progress import StageProgress
from service.runtime.request_fields import SourceParser, index_or_name, layer_weights
from training.evaluation.features.networks import FeatureNetwork, open_network
from training.latent.directions.boundary import (
    Boundary,
    attribute_boundary,
    class_boundary,
    latents_boundary,
    step_across,
)
from training.latent.directions.components import (
    Component,
    activation_components,
    principal_components,
    semantic_factors,
)
from training.latent.directions.errors import DirectionsError
from training.latent.directions.figures import (
    Drift,
    FigureMeasurement,
    Layout,
    other_attributes,
    other_classes,
)
from training.latent.directions.inverted import check_encoder, inverted_latents
from training.latent.directions.latents import Floats, draw, unit_vector
from training.latent.directions.storage import FoundDirection, check_name, strip_file
from training.latent.directions.strips import ROWS, strip

Method = Literal["sefa", "ganspace", "boundary"]
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True)
class Settings:
    """What to find. `components` are numbers from 1; `names` belong to them, or are empty."""

    method: Method
    components: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    # Indices, groups and ranges, separated by commas; None for all layers.
    layers: str | None = None
    # The two classes of a boundary.
    between: tuple[str, str] | None = None
    classifier: str | None = None
    attribute: int = 0
    # Two folders of images on both sides of a boundary.
    folders: tuple[Path, Path] | None = None
    # The class of all samples; None for all classes.
    class_name: str | None = None
    # Existing directions that the new ones are made orthogonal to.
    orthogonal_to: tuple[str, ...] = ()
    samples: int = 10_000
    seed: int = 0
    # Samples for the figures; 0 leaves them out.
    measured: int = 64
    network: str = "efficientnet-lite0"


@dataclass(frozen=True)
class _Candidate:
    """A direction of any length, with a name and a description."""

    name: str
    vector: NDArray[np.float64]
    description: str


def parse_layers(text: str | None, manifest: Manifest) -> tuple[int, ...]:
    """Return the indices of style layers: of groups, indices and ranges, separated by commas.

    None stands for all layers. The result is empty for a model without styles. Raises
    DirectionsError, and InvalidRequest if a layer does not exist.
    """
    if manifest.styles is None:
        if text is not None:
            raise DirectionsError(f"--layers: {manifest.name} has no style layers")
        return ()
    if text is None:
        return tuple(range(len(manifest.styles.layers)))
    selectors: list[str | int] = []
    for part in (part.strip() for part in text.split(",")):
        if match := _RANGE.fullmatch(part):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise DirectionsError(f"--layers: {part} is not a range from low to high")
            # One above the last layer is enough for the error.
            selectors += range(first, min(last, len(manifest.styles.layers)) + 1)
        else:
            selectors.append(index_or_name(part, manifest.styles.groups))
    return tuple(layer_weights(selectors, manifest.styles, manifest.name, "--layers"))


def find_directions(
    model: Model, settings: Settings, show: StageProgress, report: Callable[[str], object]
) -> list[FoundDirection]:
    """Find the directions of `settings`, in w of a model with styles and otherwise in z.

    `report` is called with each finding that a user should know. The result depends on the model
    and the settings only. Raises DirectionsError, QualityError, and ManifestError.
    """
    manifest = model.manifest
    layers = parse_layers(settings.layers, manifest)
    for name in settings.names:
        check_name(name)
    seeds = range(settings.seed, settings.seed + settings.samples)
    classes = _classes(settings, manifest)
    # Checked before the work that takes time.
    if settings.folders is not None:
        check_encoder(model)
    against = _existing(model, settings.orthogonal_to)
    network = open_network(settings.network) if settings.measured else None
    latents = draw(
        model, seeds, classes, truncated=False, progress=_stage(show, "drawing latents")
    ).flat(layers)
    drift: Drift = Layout()
    if settings.method == "boundary":
        candidate, drift = _boundary(
            model, settings, layers, classes, latents, network, show, report
        )
        candidates = [candidate]
    else:
        candidates = _components(model, settings, layers, latents)
    vectors = [unit_vector(_without(each.vector, against), latents) for each in candidates]
    measurement = None
    if network is not None:
        measured = draw(model, seeds[: settings.measured], classes)
        measurement = FigureMeasurement(model, measured, network, drift)
    shown = draw(model, seeds[:ROWS], classes)
    found = []
    for i, (candidate, vector) in enumerate(zip(candidates, vectors, strict=True)):
        show("measuring directions", i, len(candidates), candidate.name)
        entry = Direction(
            name=candidate.name,
            space=manifest.latent_space_name,
            method=settings.method,
            description=candidate.description,
            layers=layers,
            strip=strip_file(candidate.name),
            figures=measurement and measurement.measure(vector, layers, settings.seed),
        )
        found.append(FoundDirection(entry, vector, strip(model, shown, vector, layers)))
    show("measuring directions", len(candidates), len(candidates))
    return found


def _components(
    model: Model, settings: Settings, layers: Sequence[int], latents: Floats
) -> list[_Candidate]:
    """Return the components of SeFa or GANSpace that the settings select."""
    dimension = model.manifest.latent_dimension
    highest = max(settings.components)
    if not min(settings.components) >= 1 or highest > dimension:
        raise DirectionsError(
            f"{model.manifest.name} has components 1 to {dimension}, not {highest}"
        )
    components: list[Component]
    if settings.method == "sefa":
        components = semantic_factors(model, layers, highest)
    elif model.manifest.styles is not None:
        components = principal_components(latents, highest)
    else:
        components = activation_components(model, latents, highest)
    names = settings.names or [f"{settings.method}-{number}" for number in settings.components]
    suffix = _suffix(settings)
    return [
        _Candidate(name, components[number - 1].vector, f"component {number}{suffix}")
        for name, number in zip(names, settings.components, strict=True)
    ]


def _boundary(
    model: Model,
    settings: Settings,
    layers: Sequence[int],
    classes: Sequence[int] | None,
    latents: Floats,
    network: FeatureNetwork | None,
    show: StageProgress,
    report: Callable[[str], object],
) -> tuple[_Candidate, Drift]:
    """Return the direction of a boundary, and what should not change along it."""
    manifest = model.manifest
    seeds = range(settings.seed, settings.seed + settings.samples)
    drift: Drift = Layout()
    if settings.between is not None:
        start, end = (class_index(name, manifest, "--between") for name in settings.between)
        sides = start, end
        if sides[0] == sides[1]:
            raise DirectionsError("--between: expected two different classes")
        first, second = (manifest.classes[side] for side in sides)
        boundary = class_boundary(
            model, sides, layers, seeds, _stage(show, "drawing latents of both classes")
        )
        if network is not None:
            drift = other_classes(
                model, network, sides, settings.seed, _stage(show, "features of all classes")
            )
        default, text = slug(f"{first}-to-{second}"), f"from class {first} to {second}"
    elif settings.classifier is not None:
        classifier = open_network(settings.classifier)
        boundary = attribute_boundary(
            model,
            classifier,
            settings.attribute,
            layers,
            seeds,
            classes,
            _stage(show, "scoring images"),
        )
        if network is not None:
            drift = other_attributes(
                classifier, settings.attribute, model, seeds[: settings.measured]
            )
        default = slug(f"{classifier.name}-{settings.attribute}")
        text = f"output {settings.attribute} of {classifier.title}"
    elif settings.folders is not None:
        sides_of_images = [
            inverted_latents(model, path, classes, _stage(show, f"inverting {path.name}")).flat(
                layers
            )
            for path in settings.folders
        ]
        boundary = latents_boundary(*sides_of_images)
        first, second = (path.resolve().name for path in settings.folders)
        counts = [len(latents) for latents in sides_of_images]
        default = slug(f"{first}-to-{second}")
        text = f"from {counts[0]:,} images of {first} to {counts[1]:,} of {second}"
    else:
        raise DirectionsError(
            "--method boundary needs labels: --between, --classifier, or --from and --to"
        )
    accuracy = _accuracy(boundary)
    report(f"boundary {text}: {accuracy}")
    name = settings.names[0] if settings.names else default
    vector = step_across(boundary, latents)
    return _Candidate(name, vector, f"{text}, {accuracy}{_suffix(settings)}"), drift


def _accuracy(boundary: Boundary) -> str:
    return f"accuracy {boundary.accuracy:.1%} on {boundary.held_out:,} held-out samples"


def _suffix(settings: Settings) -> str:
    """Return what else the direction depends on, for its description."""
    suffix = f", samples of {settings.class_name}" if settings.class_name is not None else ""
    if settings.orthogonal_to:
        suffix += f", orthogonal to {', '.join(settings.orthogonal_to)}"
    return suffix


def class_index(name: str, manifest: Manifest, option: str) -> int:
    """Return the index of a class, given by name or index. Raises InvalidRequest."""
    return SourceParser(manifest).class_index(index_or_name(name, manifest.classes), option)


def _classes(settings: Settings, manifest: Manifest) -> list[int] | None:
    """Return the classes of the samples, or None for all classes of the model."""
    if settings.class_name is not None:
        return [class_index(settings.class_name, manifest, "--class")]
    if settings.between is not None:
        return [class_index(name, manifest, "--between") for name in settings.between]
    return None


def _existing(model: Model, names: Sequence[str]) -> list[Floats]:
    """Return the vectors of existing directions. Raises DirectionsError."""
    vectors = load_directions(model.folder, model.manifest)
    space = model.manifest.latent_space_name
    items = model.manifest.directions.items if model.manifest.directions else ()
    usable = [item.name for item in items if item.space == space]
    for name in names:
        if name not in usable:
            available = ", ".join(usable) or "none"
            raise DirectionsError(f"--orthogonal-to: no direction {name!r}; available: {available}")
    return [vectors[name] for name in names]


def _without(vector: NDArray[np.float64], others: Sequence[Floats]) -> NDArray[np.float64]:
    """Return a vector without its components along `others` (arXiv:1907.10786, section 2.3)."""
    if not others:
        return vector
    basis, _ = np.linalg.qr(np.stack(others, axis=1).astype(np.float64))
    rest: NDArray[np.float64] = vector - basis @ (basis.T @ vector)
    if np.linalg.norm(rest) < 1e-6 * np.linalg.norm(vector):
        raise DirectionsError("--orthogonal-to: nothing of the direction remains")
    return rest


def _stage(show: StageProgress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: show(stage, done, total)
