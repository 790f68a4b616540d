"""The folder of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from service.runtime.files import replacing
from service.runtime.models.parts.provenance import FineTuning, TrainingData
from training.data.provenance import data_changes, description
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.recipe.options import flat
from training.recipe.schema import Recipe

# Keys of the section `train` that may change when a run is resumed.
CADENCE = {"images", "log_images", "sample_images", "checkpoint_images", "loggers"}
# Sections and keys that describe a run without changing its training.
_DESCRIPTIONS = {"device", "name", "summary", "good_for", "license", "evaluate", "search"}
# Keys of `data` and `source` that may change if the fingerprint of the images stays the same.
_DATA_LOCATION = {"path", "name", "title", "license"}
# Keys that decide the shapes of the networks: no checkpoint fits other values.
_FIXED = (
    "classes",
    "generator",
    "discriminator",
    "data.resolution",
    "data.channels",
    "data.sound.samples",
    "game.kind",
    "game.task",
    "game.directions",
    "optimizer.generator.algorithm",
    "optimizer.discriminator.algorithm",
    # Read at the start of a run only.
    "fine_tune.weights",
)


class Change(NamedTuple):
    """A difference between a run and the recipe or the data that it is resumed with."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key} was {self.before}, now {self.after}"


class Override(BaseModel):
    """Changes that took effect when the run had seen `images` images."""

    images: int
    changes: tuple[str, ...]


class RunProvenance(BaseModel):
    """The content of `provenance.json`: the data of a run, and what was changed since its start.

    `fine_tuned` are the weights that it started from.
    """

    data: tuple[TrainingData, ...] = ()
    overrides: tuple[Override, ...] = ()
    fine_tuned: FineTuning | None = None


class Run:
    """A folder with `recipe.yaml`, `checkpoint.pt`, `log.jsonl`, `samples/` and `tensorboard/`.

    `provenance.json` identifies the data. If the run is evaluated during training, the folder also
    has `best.pt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_path = folder / "recipe.yaml"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.best_path = folder / "best.pt"
        self.log_path = folder / "log.jsonl"
        self.provenance_path = folder / "provenance.json"
        self.samples = folder / "samples"
        self.tensorboard = folder / "tensorboard"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def recipe(self) -> Recipe:
        """Return the recipe of the run. Raises RecipeError."""
        if not self.recipe_path.is_file():
            raise RecipeError(
                f"{self.folder} is not a run folder: it has no {self.recipe_path.name}"
            )
        return load_recipe(str(self.recipe_path))

    def at(self, checkpoint: str) -> Run:
        """Return the run at its ``last`` or ``best`` checkpoint. Raises RecipeError."""
        if checkpoint not in ("last", "best"):
            raise RecipeError(f"the checkpoint must be last or best, got {checkpoint!r}")
        run = Run(self.folder)
        if checkpoint == "best":
            if not self.best_path.exists():
                raise RecipeError(
                    f"{self.folder} has no best checkpoint; a run keeps one if its recipe has a "
                    "section evaluate"
                )
            run.checkpoint_path = self.best_path
        return run

    def open(self, recipe: Recipe, *, override: bool = False) -> list[Change]:
        """Create the run folder, or open it to resume, and return what changes.

        With `override`, a run with a checkpoint may continue with other values, if its networks
        keep their shapes. Its recipe is then only written by `save_recipe`.

        Raises RecipeError if the folder holds a run of another recipe, or other files.
        """
        changes = self.check_recipe(recipe, override=override)
        # Without a checkpoint, nothing has been trained yet, and the recipe may change.
        if not self.is_resumed:
            self.save_recipe(recipe)
            self.samples.mkdir(exist_ok=True)
        return changes

    @property
    def is_resumed(self) -> bool:
        """Whether the next training resumes this run from its checkpoint."""
        return self.recipe_path.exists() and self.checkpoint_path.exists()

    def check_recipe(self, recipe: Recipe, *, override: bool = False) -> list[Change]:
        """Return what `open` would return, and raise what it would raise, without writing."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RecipeError(f"{self.folder} is a file; a run needs a folder")
        if self.is_resumed:
            changes = _changes(self.recipe(), recipe)
            if not self.provenance_path.exists():
                # The images cannot be compared, because the run is older than the record.
                changes += _moved_data(self.recipe(), recipe)
            self._check(changes, "another recipe", override=override)
            return changes
        if not self.recipe_path.exists() and self._holds_files():
            raise RecipeError(f"{self.folder} is neither empty nor a run folder")
        return []

    def save_recipe(self, recipe: Recipe) -> None:
        """Write `recipe.yaml` atomically. Raises CannotWrite."""
        with replacing(self.recipe_path) as temporary:
            temporary.write_text(recipe.to_yaml())

    def check_data(self, data: Sequence[TrainingData], *, override: bool = False) -> list[Change]:
        """Return how `data` differ from the data of the run so far.

        Raises RecipeError if they differ, without `override`.
        """
        if not self.checkpoint_path.exists():
            return []
        if not self.provenance_path.exists():
            return [Change(each.role, "not recorded", description(each)) for each in data]
        changes = [
            Change(role, before, after)
            for role, before, after in data_changes(self.provenance().data, data)
        ]
        self._check(changes, "other data", override=override)
        return changes

    def _check(self, changes: Sequence[Change], what: str, *, override: bool) -> None:
        """Raise RecipeError if there are changes, unless `override` allows all of them."""
        fixed = [change for change in changes if _is_fixed(change.key)]
        if not changes or (override and not fixed):
            return
        described = "; ".join(str(change) for change in (fixed if override else changes))
        advice = "choose another --out, or use the values of that run"
        if fixed:
            advice += f" ({fixed[0].key} cannot change during a run)" if override else ""
        else:
            advice += ", or continue with the new ones with --override"
        raise RecipeError(f"{self.folder} holds a run of {what} ({described}); {advice}")

    def provenance(self) -> RunProvenance:
        """Return the record of the data and the overrides; empty for a run without a record.

        Raises RecipeError if the record is damaged.
        """
        if not self.provenance_path.exists():
            return RunProvenance()
        try:
            return RunProvenance.model_validate_json(self.provenance_path.read_bytes())
        except ValidationError as error:
            raise RecipeError(
                f"{self.provenance_path} is damaged; delete it to continue without comparing the "
                "images with those of the run so far"
            ) from error

    def save_provenance(
        self,
        data: Sequence[TrainingData],
        changes: Sequence[Change],
        images: int,
        fine_tuned: FineTuning | None = None,
    ) -> None:
        """Record the data of the run, and `changes` made after `images` images, atomically.

        `fine_tuned` are the weights of a new run; a resumed run keeps its record.
        """
        before = self.provenance() if images else RunProvenance()
        overrides = before.overrides
        if changes:
            lines = tuple(str(change) for change in changes)
            overrides = (*overrides, Override(images=images, changes=lines))
        record = RunProvenance(
            data=tuple(data),
            overrides=overrides,
            fine_tuned=fine_tuned or before.fine_tuned,
        )
        with replacing(self.provenance_path) as temporary:
            temporary.write_text(record.model_dump_json(indent=2, exclude_none=True) + "\n")

    def _holds_files(self) -> bool:
        """Return whether the folder contains files, except temporary files of a killed run."""
        if not self.folder.exists():
            return False
        return any(not path.name.startswith(".") for path in self.folder.iterdir())

    def rewind_log(self, images: int) -> list[dict[str, Any]]:
        """Remove log entries after `images` seen images, and return the remaining entries."""
        if not self.log_path.exists():
            return []
        kept = [entry for entry in self.read_log() if entry["images"] <= images]
        with replacing(self.log_path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        return kept

    def read_log(self) -> list[dict[str, Any]]:
        """Return the entries of the log."""
        if not self.log_path.exists():
            return []
        entries = []
        for line in self.log_path.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # The last line of a killed run may be incomplete.
        return entries

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append an entry as one line of JSON."""
        with self.log_path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _changes(old: Recipe, new: Recipe) -> list[Change]:
    """Return the differences between two experiments, without keys that may change on resuming."""
    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    changes = []
    for key in dict.fromkeys([*before, *after]):
        section, _, last = key.partition(".")
        if section in _DESCRIPTIONS or (section == "train" and last in CADENCE):
            continue
        if section in ("data", "source") and last in _DATA_LOCATION:
            continue
        if before.get(key) != after.get(key):
            changes.append(Change(key, str(before.get(key)), str(after.get(key))))
    return changes


def _moved_data(old: Recipe, new: Recipe) -> list[Change]:
    """Return which sections name other data: another path, or without a path another name."""
    changes = []
    for section in ("data", "source"):
        before, after = getattr(old, section), getattr(new, section)
        if before is None or after is None:
            continue
        locations = [str(options.path or options.name) for options in (before, after)]
        if locations[0] != locations[1]:
            changes.append(Change(section, *locations))
    return changes


def _is_fixed(key: str) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED)
