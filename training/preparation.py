"""Opens what a training needs before its networks: the run folder and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from service.runtime.models.parts.provenance import TrainingData
from service.runtime.progress import stage_progress
from training.data.dataset import Dataset
from training.data.provenance import training_data
from training.distributed import DistributedContext
from training.recipe.errors import RecipeError
from training.recipe.schema import Recipe
from training.run import Change, Run


class Preparation(NamedTuple):
    """The data of `recipe.data`, and in the main process their records and what changes."""

    data: Dataset
    records: Sequence[TrainingData]
    changes: Sequence[Change]


def prepare(
    recipe: Recipe,
    run: Run,
    distributed: DistributedContext,
    *,
    override: bool,
    creates_folder: bool = True,
) -> Preparation:
    """Open the run and decode its data, or read the decoded copy.

    Without `creates_folder`, the run is only checked, and nothing is written into its folder.
    Raises RecipeError, DataError.
    """
    if recipe.train.batch % (distributed.world * recipe.train.accumulate):
        parts = f" in {recipe.train.accumulate} parts" if recipe.train.accumulate > 1 else ""
        raise RecipeError(
            f"train.batch ({recipe.train.batch}) cannot be divided among "
            f"{distributed.world} processes{parts}"
        )

    # The main process opens the run and decodes the data; the others then read the decoded copy.
    changes: list[Change] = []
    records: Sequence[TrainingData] = ()
    if distributed.is_main:
        open_run = run.open if creates_folder else run.check_recipe
        changes = open_run(recipe, override=override)
    distributed.wait()
    if distributed.is_main:
        data = _decoded(recipe)
        records = training_data(recipe, data)
        changes += run.check_data(records, override=override)
    distributed.wait()
    if not distributed.is_main:
        data = recipe.game.prepare_data(recipe)
    return Preparation(data, records, changes)


def _decoded(recipe: Recipe) -> Dataset:
    with stage_progress() as show:
        return recipe.game.prepare_data(
            recipe, lambda done, total: show("decoding data", done, total)
        )
