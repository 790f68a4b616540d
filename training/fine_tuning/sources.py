"""The weights that fine-tuning starts from: of a run, a model or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from service.runtime.models.folders import versions_of
from service.runtime.models.manifest import MANIFEST_FILE, file_sha256, read_manifest
from service.runtime.models.parts.additions import TRAINABLE_FILE
from service.runtime.models.parts.provenance import TrainingProvenance
from service.runtime.models.parts.tasks import Task
from training.checkpoints import Checkpoint, CheckpointError
from training.fine_tuning.errors import FineTuningError
from training.fine_tuning.trainable import networks_of_run, read_trainable
from training.recipe.loading import load_recipe
from training.recipe.schema import Recipe
from training.run import Run


@dataclass(frozen=True)
class Source:
    """The networks of a source: `generator`, `average`, `discriminator`, or some of them."""

    title: str
    # The SHA-256 of the file with the weights.
    sha256: str
    networks: Mapping[str, Mapping[str, Tensor]]
    class_names: tuple[str, ...] = ()
    license: str = "unknown"
    # Images that the weights were trained on, if known.
    images: int | None = None
    # The game and the task of the source, if known.
    game: str | None = None
    task: Task | None = None

    def check_game(self, recipe: Recipe) -> None:
        """Raise FineTuningError if the source was trained for another game or task."""
        for what, own, needed in (
            ("game", self.game, recipe.game.kind),
            ("task", self.task, recipe.game.served_task),
        ):
            if own is not None and own != needed:
                raise FineTuningError(
                    f"{self.title} has the {what} {own}, but the recipe has the {what} {needed}; "
                    "choose a recipe or weights of the same one"
                )


def open_source(weights: str) -> Source:
    """Open a run folder, a model, or a checkpoint file of a run. Raises FineTuningError."""
    path = Path(weights)
    if path.is_file():
        return _open_checkpoint(path)
    run = Run(path)
    if run.recipe_path.is_file():
        if not run.checkpoint_path.is_file():
            raise FineTuningError(f"{path} has no checkpoint yet: continue its training")
        return _open_checkpoint(run.checkpoint_path)
    return _open_model(_model_folder(weights))


def _open_checkpoint(path: Path) -> Source:
    """Open a checkpoint. Its run's recipe is beside it, or unknown."""
    try:
        checkpoint = Checkpoint.load(path)
    except CheckpointError as error:
        raise FineTuningError(
            f"{error}; from= takes checkpoints of ganymede train, not of other projects"
        ) from error
    run = Run(path.parent)
    recipe = load_recipe(str(run.recipe_path)) if run.recipe_path.is_file() else None
    return Source(
        # For model cards: the name of the run, without the folders above it.
        title=f"{run.name}/{path.name} at {checkpoint.images:,} images",
        sha256=file_sha256(path),
        networks=networks_of_run(checkpoint),
        class_names=tuple(checkpoint.class_names),
        license=recipe.license if recipe else "unknown",
        images=checkpoint.images,
        game=recipe.game.kind if recipe else None,
        task=recipe.game.served_task if recipe else None,
    )


def _open_model(folder: Path) -> Source:
    manifest = read_manifest(folder)
    trainable = read_trainable(folder, manifest)
    provenance = manifest.provenance
    return Source(
        title=f"{manifest.name}@{manifest.version}",
        sha256=file_sha256(folder / TRAINABLE_FILE),
        networks=trainable.networks,
        class_names=manifest.classes,
        license=manifest.license,
        images=provenance.images if isinstance(provenance, TrainingProvenance) else None,
        game=trainable.recipe.game.kind if trainable.recipe else None,
        task=manifest.task,
    )


def _model_folder(weights: str) -> Path:
    """Return the folder of a model, given by path, ``name`` or ``name@version``.

    The default is the newest version. Raises FineTuningError.
    """
    path = Path(weights)
    if (path / MANIFEST_FILE).is_file():
        return path
    if path.is_dir() and (versions := versions_of(path.parent, path.name)):
        return versions[-1]
    if path.exists():
        raise FineTuningError(f"{weights} is neither a run, a model nor a checkpoint")
    models = Path(os.environ.get("GANYMEDE_MODELS", "models"))
    name, _, version = weights.partition("@")
    versions = versions_of(models, name)
    if version:
        versions = [folder for folder in versions if folder.name == version]
    if not versions:
        raise FineTuningError(
            f"{weights} was not found: there is no such run folder or checkpoint, and no such "
            f"model in {models}"
        )
    return versions[-1]
