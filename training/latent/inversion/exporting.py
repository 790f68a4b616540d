"""Exports a trained encoder, measures it, and adds it to the model folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from service.runtime.errors import UserError
from service.runtime.latent.sources import encode_floats
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts import additions
from service.runtime.models.parts.graphs import ENCODER, Graph, encoder_output
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.evaluation.features.networks import FeatureNetwork
from training.export.additions import update_model_folder
from training.export.graphs import GraphSpec
from training.export.onnx_export import export_graph
from training.latent.generator import Latents
from training.latent.inversion.measuring import (
    Progress,
    Targets,
    choose_passes,
    draw_candidates,
    invert_targets,
    measure,
)
from training.latent.inversion.passes import (
    class_inputs,
    conditions_of,
    session_encoder,
)
from training.latent.inversion.quality import gate_failures
from training.latent.inversion.training import EncoderTraining

ENCODER_FILE = "encoder.onnx"
_CHECKED_ROWS = 33
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


class EncoderRefused(UserError):
    """The encoder is not clearly better than the baselines, and was not added to the model."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class ExportedEncoder:
    """The graph of an encoder in a run folder, with its entries in the manifest."""

    path: Path
    graph: Graph
    record: additions.Encoder

    @property
    def failures(self) -> list[str]:
        """Why the encoder does not pass the quality gate; empty if it does."""
        return gate_failures(self.record.figures)


def export_encoder(training: EncoderTraining) -> tuple[Path, Graph]:
    """Write the averaged encoder into the run folder, checked against PyTorch. Raises ExportError.

    The rows of a batch are independent of each other, bit for bit.
    """
    spec = GraphSpec(
        ENCODER,
        training.average.eval(),
        _feeds(training),
        (encoder_output(training.generator.space),),
    )
    path = training.out / ENCODER_FILE
    return path, export_graph(spec, path)


def measured_encoder(
    training: EncoderTraining,
    targets: list[Targets],
    network: FeatureNetwork,
    candidates: int,
    progress: Progress,
    passes: int | None = None,
) -> ExportedEncoder:
    """Export the encoder and measure it in ONNX Runtime. Raises ExportError.

    `passes` is the number of passes of an inversion; default: as many as improve it.
    """
    generator, start = training.generator, training.start
    path, graph = export_encoder(training)
    run = session_encoder(Session(path, Provider.CPU, _PLAN), generator.space)
    if passes is None:
        passes = choose_passes(generator, run, start, 2 * training.settings.passes)
    samples = draw_candidates(generator, network, candidates, progress)
    figures: list[additions.InversionFigure] = []
    for done, each in enumerate(targets):
        progress("measuring reconstructions", done, len(targets))
        inversion = invert_targets(generator, run, start, each, passes)
        figures += measure(each, inversion, samples, network)
    first = start[0] if generator.space == "w" else start
    record = additions.Encoder(
        passes=passes,
        start=encode_floats(first),
        trained_images=max(training.images, 1),
        seconds=round(training.seconds, 1),
        figures=tuple(figures),
    )
    return ExportedEncoder(path, graph, record)


def add_encoder(folder: Path, encoder: ExportedEncoder, *, force: bool = False) -> Manifest:
    """Add an encoder to a model folder, and return the new manifest.

    Raises EncoderRefused if it does not pass the quality gate, unless `force` is set; the model
    card then says so.
    """
    if encoder.failures and not force:
        raise EncoderRefused(
            f"the encoder was not added to {folder}: {encoder.failures[0]}. Train it longer, or "
            "add it with --force"
        )

    def change(part: Path, manifest: Manifest) -> Manifest:
        shutil.copyfile(encoder.path, part / encoder.graph.file)
        return manifest.model_copy(
            update={
                "graphs": {**manifest.graphs, ENCODER: encoder.graph},
                "encoder": encoder.record,
            }
        )

    return update_model_folder(folder, change)


def _feeds(training: EncoderTraining) -> dict[str, torch.Tensor]:
    """Return inputs to check the graph with: samples, other samples, and latents of these."""
    generator = training.generator
    seeds = range(2 * _CHECKED_ROWS)
    latents, conditions = generator.draw(seeds)
    pixels = generator.pixels(latents, conditions)
    classes = class_inputs(conditions_of(generator, _CHECKED_ROWS, None))
    arrays: dict[str, NDArray[np.generic]] = {
        "image": pixels[:_CHECKED_ROWS],
        "reconstruction": pixels[_CHECKED_ROWS:],
        generator.space: _unequal_layers(latents, generator.space)[_CHECKED_ROWS:],
        **classes,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _unequal_layers(latents: Latents, space: str) -> Latents:
    """Give each layer another style, so that the check detects a graph that uses only one."""
    if space == "z":
        return latents
    return np.stack([np.roll(latents[:, i], i, axis=0) for i in range(latents.shape[1])], axis=1)
