"""Exports the generator of a training run as a model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import nn

from service.runtime.models.folders import new_version_folder
from service.runtime.models.manifest import Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import MAPPING, Graph
from service.runtime.models.parts.measurements import Quality
from service.runtime.models.parts.outputs import OutputSpec
from service.runtime.models.parts.provenance import TrainingProvenance
from service.runtime.onnx.sessions import ExecutionPlan
from training.checkpoints import Checkpoint, CheckpointError
from training.export.additions.discriminator import discriminator_of_recipe
from training.export.errors import ExportError
from training.export.folding import settle_spectral_norms
from training.export.graphs import (
    style_space,
)
from training.export.model_folder import write_model_folder
from training.export.onnx_export import export_graphs
from training.fine_tuning.trainable import networks_of_run, write_trainable
from training.preview.image_to_image import example_series
from training.recipe.schema import Recipe
from training.run import Run

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


def export_run(
    run: Run,
    name: str,
    models: Path,
    version: str | None = None,
    measure: Callable[[Model], tuple[Quality, ...]] | None = None,
    *,
    discriminator: bool = False,
    trainable: bool = False,
) -> Path:
    """Write the averaged generator of a run as ``models/name/version`` and return that folder.

    The default version is the next free number. `measure` is called with the exported model and
    returns metrics for the manifest and the card. With `discriminator`, the discriminator is
    exported, too, so that requests can select images by its score. With `trainable`, the weights of
    both players are written beside the graphs, so that training can continue from the model.

    Raises ExportError, ModelFolderError, CheckpointError, RecipeError, and the errors of `measure`.
    No folder is left behind in these cases.
    """
    recipe = run.recipe()
    if not run.checkpoint_path.exists():
        raise CheckpointError(f"{run.folder} has no checkpoint yet: continue the training")
    checkpoint = Checkpoint.load(run.checkpoint_path)
    required = recipe.game.images_before_export(recipe)
    if checkpoint.images < required:
        raise ExportError(
            f"{run.folder} has not reached its full resolution: it was trained on "
            f"{checkpoint.images:,} images, and needs {required:,}; continue the training"
        )
    additions: list[Callable[[Path, Manifest], Manifest]] = []
    if discriminator:
        additions.append(discriminator_of_run(recipe, checkpoint))
    if trainable:
        additions.append(partial(_with_trainable, recipe, checkpoint))
    generator = load_generator(recipe, checkpoint)
    folder = new_version_folder(models, name, version)
    output: dict[str, OutputSpec] = {}

    def write_graphs(part: Path) -> dict[str, Graph]:
        output.update(recipe.game.write_output(recipe, generator, checkpoint.game, part))
        return export_graphs(recipe.game.graph_specs(recipe, generator), part)

    return write_model_folder(
        folder,
        write_graphs,
        lambda graphs: _manifest(recipe, run, checkpoint, folder, graphs, output, generator),
        plan=_PLAN,
        preview=lambda model: recipe.game.preview(recipe, model),
        probe_images=lambda model: example_series(recipe, model)[0],
        measure=measure,
        additions=additions,
        notes=recipe.game.card_notes(recipe),
    )


def _with_trainable(
    recipe: Recipe, checkpoint: Checkpoint, folder: Path, manifest: Manifest
) -> Manifest:
    weights = write_trainable(folder, networks_of_run(checkpoint), recipe)
    return manifest.model_copy(update={"trainable": weights})


def load_generator(recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return the averaged generator of a checkpoint, in eval mode."""
    generator = recipe.build_generator()
    generator.load_state_dict(checkpoint.game["average"])
    settle_spectral_norms(generator)
    return generator.eval()


def discriminator_of_run(
    recipe: Recipe, checkpoint: Checkpoint
) -> Callable[[Path, Manifest], Manifest]:
    """Return the change of a model folder that adds the discriminator of a checkpoint.

    Raises ExportError for a run of an image-to-image model.
    """
    weights = checkpoint.game["networks"]["discriminator"]
    description = f"the discriminator of the training after {checkpoint.images:,} images"
    return discriminator_of_recipe(recipe, weights, description)


def _manifest(
    recipe: Recipe,
    run: Run,
    checkpoint: Checkpoint,
    folder: Path,
    graphs: dict[str, Graph],
    output: Mapping[str, OutputSpec],
    generator: nn.Module,
) -> Manifest:
    data, record = recipe.data, run.provenance()
    truncates = any("truncation" in graph.inputs for graph in graphs.values())
    return Manifest(
        name=folder.parent.name,
        version=folder.name,
        task=recipe.game.served_task,
        summary=recipe.summary,
        good_for=recipe.good_for or None,
        graphs=graphs,
        **output,
        latent=recipe.game.latent_space(recipe, truncates=truncates),
        input=recipe.image_input,
        text_input=recipe.game.text_input(),
        classes=tuple(checkpoint.class_names),
        styles=style_space(generator) if MAPPING in graphs else None,
        provenance=TrainingProvenance(
            recipe=recipe.name or run.name,
            dataset=data.dataset_title,
            dataset_license=data.dataset_license,
            images=checkpoint.images,
            turns=checkpoint.turn,
            seconds=round(checkpoint.seconds, 1),
            device=checkpoint.device,
            seed=recipe.train.seed,
            code_revision=checkpoint.code_revision,
            data=record.data,
            overrides=tuple(
                f"after {override.images:,} images: {change}"
                for override in record.overrides
                if override.images < checkpoint.images
                for change in override.changes
            ),
            fine_tuned=record.fine_tuned,
            pretrained=recipe.pretrained,
        ),
        license=recipe.license,
    )
