"""The folder of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.runtime.files import replacing
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.recipe.schema import Recipe

# Keys of the section `train` that may change when a run is resumed.
CADENCE = {"images", "log_images", "sample_images", "checkpoint_images"}


class Run:
    """A folder with `recipe.yaml`, `checkpoint.pt`, `log.jsonl`, `samples/` and `tensorboard/`.

    If the run is evaluated during training, it also has `best.pt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_path = folder / "recipe.yaml"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.best_path = folder / "best.pt"
        self.log_path = folder / "log.jsonl"
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

    def open(self, recipe: Recipe) -> None:
        """Create the run folder, or open it to resume.

        Raises RecipeError if the folder holds a run of another recipe, or other files.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise RecipeError(f"{self.folder} is a file; a run needs a folder")
        # Without a checkpoint, nothing has been trained yet, and the recipe may change.
        if self.recipe_path.exists() and self.checkpoint_path.exists():
            difference = _difference(self.recipe(), recipe)
            if difference:
                raise RecipeError(
                    f"{self.folder} holds a run of another recipe ({difference}); "
                    "choose another --out, or use the values of that run"
                )
        elif not self.recipe_path.exists() and self._holds_files():
            raise RecipeError(f"{self.folder} is neither empty nor a run folder")
        with replacing(self.recipe_path) as temporary:
            temporary.write_text(recipe.to_yaml())
        self.samples.mkdir(exist_ok=True)

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


def _difference(old: Recipe, new: Recipe) -> str:
    """Return a description of the first difference between two experiments, or ''.

    Keys that may change when a run is resumed are ignored.
    """
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    for key in before.keys() | after.keys():
        section, _, last = key.partition(".")
        if section in ("device", "name", "summary", "license", "evaluate", "search") or (
            section == "train" and last in CADENCE
        ):
            continue
        if key == "data.path":
            continue  # The images may have been moved to another path.
        if before.get(key) != after.get(key):
            return f"{key} was {before.get(key)}, now {after.get(key)}"
    return ""


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
