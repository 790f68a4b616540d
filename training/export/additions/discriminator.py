"""The graph of a discriminator, which scores images one by one.

Two kinds of layers depend on the batch in training, and get a form in which the rows of the graph
are independent. Both compare an image with `REFERENCE_IMAGES` images of the exported generator,
whose seeds are fixed, instead of with the other rows of a batch:

- The standard deviation within a group becomes a constant, its mean over groups of these images.
  The variation of a batch is not a property of an image, and a constant does not change which of
  two images scores higher because of its neighbors.
- The similarity of minibatch discrimination is summed over these images, and scaled from their
  number to that of a batch in training.

Batch normalization uses its running statistics, and dropout is disabled, as in every network in
eval mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.runtime.generation import RunGraph, execute, image_plan, score_plan
from service.runtime.latent.sources import LatentSource
from service.runtime.models.manifest import Manifest, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import Discriminator, ScoreCalibration
from service.runtime.models.parts.graphs import CLASS_WEIGHTS, DISCRIMINATOR
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session
from training.export.errors import ExportError
from training.export.graphs import CHECKED_IMAGES, GraphSpec, class_weights
from training.export.onnx_export import export_graph
from training.fine_tuning.trainable import read_trainable
from training.networks.layers.minibatch import (
    MinibatchDiscrimination,
    MinibatchStandardDeviation,
)
from training.recipe.schema import Recipe

# Images that replace the other rows of a batch.
REFERENCE_IMAGES = 64
# Images whose largest score is recorded, for rejection sampling.
CALIBRATION_IMAGES = 1024
_ROWS = 16
# Scores are only compared with each other; normalization layers may add in another order for
# another number of rows.
_ROW_TOLERANCE = 1e-5
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


class ServedDiscriminator(nn.Module):
    """Maps ``image`` [N, H, W, C] uint8 and class weights to ``score`` [N] float32."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, image: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor]:
        images = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        logits: Tensor = self.discriminator(images, class_weights)
        # A discriminator of patches has several logits per image.
        return (logits if logits.dim() == 1 else logits.mean(1),)


class ConstantDeviation(nn.Module):
    """Appends a constant channel: `MinibatchStandardDeviation` with a known deviation."""

    deviation: Tensor

    def __init__(self, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        plane = self.deviation.expand(images.shape[0], 1, images.shape[2], images.shape[3])
        return torch.cat([images, plane], dim=1)


class ReferenceDiscrimination(nn.Module):
    """`MinibatchDiscrimination` with fixed matrices ``[R, kernels, kernel_dim]`` as the batch."""

    matrices: Tensor

    def __init__(self, layer: MinibatchDiscrimination, matrices: Tensor, batch: int) -> None:
        super().__init__()
        self.project = layer.project
        self.shape = (layer.kernels, layer.kernel_dim)
        self.factor = (batch - 1) / len(matrices)
        self.register_buffer("matrices", matrices)

    def forward(self, features: Tensor) -> Tensor:
        matrices = self.project(features).unflatten(1, self.shape)
        distances = (matrices[:, None] - self.matrices[None]).abs().sum(-1)
        # Over the last axis: ONNX Runtime adds in the same order for any number of rows.
        similarity = torch.exp(-distances).transpose(1, 2).sum(-1)
        return torch.cat([features, similarity * self.factor], dim=1)


@torch.no_grad()
def with_independent_rows(
    discriminator: nn.Module, images: Tensor, classes: Tensor | None, batch: int
) -> nn.Module:
    """Return a copy in eval mode in which no layer depends on the other rows of a batch.

    `images` ``[R, C, H, W]`` in [-1, 1] and their `classes` ``[R]`` replace the other rows. `batch`
    is the batch size of the training.
    """
    network = copy.deepcopy(discriminator).eval()
    inputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[name] = arguments[0].clone()

        return hook

    kinds = (MinibatchStandardDeviation, MinibatchDiscrimination)
    layers = {name: each for name, each in network.named_modules() if isinstance(each, kinds)}
    handles = [each.register_forward_pre_hook(record(name)) for name, each in layers.items()]
    network(images, classes)
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        if isinstance(layer, MinibatchStandardDeviation):
            replacement: nn.Module = ConstantDeviation(layer(inputs[name])[:, -1].mean())
        else:
            shape = (layer.kernels, layer.kernel_dim)
            matrices = layer.project(inputs[name]).unflatten(1, shape)
            replacement = ReferenceDiscrimination(layer, matrices, batch)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, replacement)
    return network


def discriminator_of_recipe(
    recipe: Recipe, weights: Mapping[str, Tensor], description: str = ""
) -> Callable[[Path, Manifest], Manifest]:
    """Return a change of a model folder that adds the discriminator of a recipe with `weights`.

    Raises ExportError if the recipe is not one of a noise-to-image model, or if the weights do not
    fit its discriminator.
    """
    if recipe.image_input is not None:
        raise ExportError(
            "--discriminator is for models that generate from noise: it ranks images of seeds"
        )
    if recipe.game.takes_sounds:
        raise ExportError("--discriminator ranks images; it is not for models of sounds")
    network = recipe.build_discriminator()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ExportError(f"the weights do not fit the recipe's discriminator: {reason}") from error
    # Batch statistics are computed per part of a batch.
    return add_discriminator(network, recipe.train.batch // recipe.train.accumulate, description)


def discriminator_of_folder(folder: Path) -> Callable[[Path, Manifest], Manifest]:
    """Return a change that adds the discriminator among the trainable weights of a model folder.

    Raises ManifestError, FineTuningError, and ExportError if the folder has no weights of a
    discriminator.
    """
    manifest = read_manifest(folder)
    trainable = read_trainable(folder, manifest)
    if trainable.recipe is None:
        raise ExportError(
            f"{folder} was imported: the network that the weights of its discriminator belong to "
            "is not known"
        )
    weights = trainable.networks.get(DISCRIMINATOR)
    if not weights:
        raise ExportError(
            f"{folder} has no weights of a discriminator; export the run that it was trained in "
            "with --discriminator"
        )
    known = manifest.discriminator.description if manifest.discriminator else ""
    description = known or trainable.description or "the discriminator of the trainable weights"
    return discriminator_of_recipe(trainable.recipe, weights, description)


def add_discriminator(
    discriminator: nn.Module, batch: int, description: str = ""
) -> Callable[[Path, Manifest], Manifest]:
    """Return a change of a model folder that adds the graph of `discriminator`.

    The network takes images ``[N, C, H, W]`` in [-1, 1] and, for a model with classes, their
    indices or weights. `batch` is the batch size of its training. The change raises ExportError.
    """

    def change(folder: Path, manifest: Manifest) -> Manifest:
        if manifest.input is not None:
            raise ExportError(
                f"{manifest.name} is an image-to-image model: its images cannot be ranked"
            )
        first = next(graph for graph in manifest.graphs.values() if "z" in graph.inputs)
        if manifest.classes and CLASS_WEIGHTS not in first.inputs:
            raise ExportError(
                f"{manifest.name} takes a class index, but the discriminator takes class weights"
            )
        model = Model(folder, Provider.CPU, _PLAN)
        path = folder / f"{DISCRIMINATOR}.onnx"
        graph = export_graph(_graph_spec(discriminator, model, batch), path)
        session = Session(path, Provider.CPU, _PLAN)
        largest = max(
            float(scores.max())
            for _, scores in scored_images(
                model, range(CALIBRATION_IMAGES), run=lambda _, inputs: session.run(inputs)
            )
        )
        if not math.isfinite(largest):
            raise ExportError("the discriminator returns scores that are not finite")
        calibration = ScoreCalibration(scale=1.0, maximum=largest, samples=CALIBRATION_IMAGES)
        return manifest.model_copy(
            update={
                "graphs": {**manifest.graphs, DISCRIMINATOR: graph},
                "discriminator": Discriminator(description=description, calibration=calibration),
            }
        )

    return change


def scored_images(
    model: Model,
    seeds: range,
    truncation: float | None = None,
    run: RunGraph | None = None,
) -> Iterator[tuple[NDArray[np.uint8], Array]]:
    """Yield images ``[N, H, W, C]`` of seeds in batches, with their scores ``[N]``.

    The classes are the service's defaults for the seeds. `truncation` defaults to the model's.
    `run` runs the discriminator; default: the one of the model.
    """
    for start in range(seeds.start, seeds.stop, _ROWS):
        batch = range(start, min(start + _ROWS, seeds.stop))
        sources = [
            LatentSource(
                seed,
                classes=None if classes is None else {classes[i]: 1.0},
                truncation=truncation,
            )
            for classes in [model.classes_of(batch)]
            for i, seed in enumerate(batch)
        ]
        pixels = execute(image_plan(model.manifest, sources), model.run)
        yield pixels, execute(score_plan(model.manifest, sources, pixels), run or model.run)


def _graph_spec(discriminator: nn.Module, model: Model, batch: int) -> GraphSpec:
    """Return the graph, which is checked with images of the model and with other images."""
    manifest = model.manifest
    pixels = torch.from_numpy(
        np.concatenate(
            [
                model.generate(range(start, start + _ROWS))
                for start in range(0, REFERENCE_IMAGES, _ROWS)
            ]
        )
    )
    classes = model.classes_of(range(REFERENCE_IMAGES))
    index = None if classes is None else torch.tensor(classes)
    images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    network = with_independent_rows(discriminator, images, index, batch)
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *pixels.shape[1:]))
    feeds = {"image": torch.cat([pixels[:-CHECKED_IMAGES], torch.from_numpy(noise).byte()])}
    if manifest.classes:
        feeds[CLASS_WEIGHTS] = class_weights(REFERENCE_IMAGES, len(manifest.classes))
    module = ServedDiscriminator(network).eval()
    return GraphSpec(DISCRIMINATOR, module, feeds, ("score",), row_tolerance=_ROW_TOLERANCE)
