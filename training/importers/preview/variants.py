"""The plausible networks of a checkpoint: one for each value of each property that is assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from service.runtime.latent import seeds
from service.runtime.models.parts.graphs import MAPPING, SYNTHESIS
from service.runtime.models.probe_inputs import probe_images
from training.export.preview import fitted
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.base import ConvertedModel
from training.importers.options import Choices, UndeterminedError, UserOptions, setting
from training.importers.recognition import Candidate, convert_network

Pixels = NDArray[np.uint8]
# Images of noise models are limited to this number of pixels in all, but are at least four.
_MAX_PIXELS = 2**20
_INPUTS = 3
_BATCH = 8
# Errors of networks whose layers do not fit together with a value.
_BUILD_ERRORS = (FormatMismatchError, ImportOptionError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Property:
    """A property that is assumed, with its plausible values; the assumed one is first."""

    name: str
    subject: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """A network with some values of its properties, as ``{name: value}``."""

    settings: Mapping[str, str]
    converted: ConvertedModel
    # Images that were generated before, by number.
    _images: dict[int, Pixels] = field(default_factory=dict, compare=False, repr=False)

    @property
    def arguments(self) -> str:
        """The options of the command that choose this network."""
        return " ".join(setting(name, value) for name, value in self.settings.items())

    def images(self, count: int, inputs: Pixels | None = None) -> Pixels:
        """Return images ``[N, H, W, C]`` of the seeds from 0, or the outputs for `inputs`.

        Large images are fewer than `count`. The inputs must be the same in all calls.
        """
        if count not in self._images:
            self._images[count] = (
                _samples(self.converted, count)
                if inputs is None
                else _outputs(self.converted, inputs)
            )
        return self._images[count]


@dataclass
class Variants:
    """Converts a network with different values of its properties."""

    candidate: Candidate
    options: UserOptions
    # Properties that have no default, with their values.
    required: dict[str, Property] = field(default_factory=dict)
    # Networks that were converted before.
    _built: dict[frozenset[tuple[str, str]], Variant] = field(default_factory=dict)

    def build(self, settings: Mapping[str, str]) -> Variant:
        """Return the network with some values; properties without a default get their first.

        Raises the errors of the format's converter.
        """
        settings = dict(settings)
        key = frozenset(settings.items())
        if key not in self._built:
            self._built[key] = self._build(settings)
        return self._built[key]

    def _build(self, settings: dict[str, str]) -> Variant:
        while True:
            choices = Choices(self.options.merged(settings))
            try:
                source = self.candidate.source.fresh()
                converted = convert_network(self.candidate.format, source, choices)
            except UndeterminedError as error:
                known = Property(error.name, error.subject, error.known)
                self.required[error.name] = known
                settings[error.name] = known.values[0]
            else:
                return Variant(settings, converted)

    def properties(self, variant: Variant) -> list[Property]:
        """Return the properties of a network that the user did not set, with several values."""
        found = list(self.required.values())
        found += [
            Property(each.name, each.subject, (each.value, *each.alternatives))
            for each in variant.converted.assumptions
            if each.alternatives
            and (each.source != "option" or each.name in variant.settings)
            and each.name not in self.required
        ]
        return found

    def others(self, variant: Variant, prop: Property) -> Iterator[Variant]:
        """Yield the networks that differ from `variant` in one property."""
        current = variant.settings.get(prop.name, prop.values[0])
        for value in prop.values:
            if value == current:
                continue
            try:
                yield self.build({**variant.settings, prop.name: value})
            except _BUILD_ERRORS:
                continue  # The layers do not fit together with this value.

    def inputs(self, images: Sequence[Pixels]) -> Pixels | None:
        """Return input images ``[N, H, W, C]`` of the training size; None for a noise model.

        Default: synthetic images.
        """
        spec = self.base().converted.input
        if spec is None:
            return None
        if images:
            return np.stack([fitted(each, spec) for each in images[:_INPUTS]])
        return probe_images(range(_INPUTS), spec.side, spec.channels)

    def base(self) -> Variant:
        """Return the network with all assumed values. Raises ModelImportError."""
        try:
            return self.build({})
        except FormatMismatchError as error:
            raise ModelImportError(str(error)) from error


@torch.no_grad()
def _samples(converted: ConvertedModel, count: int) -> Pixels:
    latent = converted.latent
    assert latent is not None  # noqa: S101 - all other models have input images
    count = max(4, min(count, _MAX_PIXELS // converted.image.pixels))
    feeds = {"z": torch.from_numpy(seeds.draw(range(count), latent.dimension, latent.distribution))}
    if converted.classes:
        classes = len(converted.classes)
        feeds["class_weights"] = F.one_hot(torch.arange(count) % classes, classes).float()
    if latent.truncation is not None:
        feeds["truncation"] = torch.ones(count)
    modules = {spec.role: spec.module for spec in converted.graph_specs}
    if MAPPING in modules:
        (w,) = modules[MAPPING](**feeds)
        module, feeds = modules[SYNTHESIS], {"w": w}
    else:
        (module,) = modules.values()
    batches = [
        module(**{name: feed[i : i + _BATCH] for name, feed in feeds.items()})[0]
        for i in range(0, count, _BATCH)
    ]
    pixels: Pixels = torch.cat(batches).numpy()
    return pixels


@torch.no_grad()
def _outputs(converted: ConvertedModel, inputs: Pixels) -> Pixels:
    (spec,) = converted.graph_specs
    rows = [spec.module(image=torch.from_numpy(each[None]))[0] for each in inputs]
    pixels: Pixels = torch.cat(rows).numpy()
    return pixels
