"""The weights that training continues from, beside the graphs of a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from service.runtime.errors import first_line
from service.runtime.models.manifest import Manifest, file_sha256
from service.runtime.models.parts.additions import TRAINABLE_FILE, Trainable
from training.checkpoints import Checkpoint
from training.fine_tuning.errors import FineTuningError
from training.recipe.schema import Recipe

# The networks of a game, which prefix the names of the tensors.
NETWORKS = ("generator", "average", "discriminator")
# Tensors by name, by network.
States = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class TrainableWeights:
    """The weights of a model folder, and the recipe whose networks have them, if there is one."""

    networks: Mapping[str, dict[str, Tensor]]
    recipe: Recipe | None = None
    # Where the weights come from, where they are not those of the training.
    description: str = ""


def write_trainable(
    folder: Path, networks: States, recipe: Recipe | None = None, description: str = ""
) -> Trainable:
    """Write `trainable.safetensors` into a model folder, and return its part of the manifest."""
    # The format stores no tensor twice, and no views.
    tensors = {
        f"{network}.{name}": tensor.detach().cpu().contiguous().clone()
        for network, state in networks.items()
        for name, tensor in state.items()
    }
    path = folder / TRAINABLE_FILE
    path.write_bytes(save(tensors))
    return Trainable.model_validate(
        {
            "sha256": file_sha256(path),
            "networks": [name for name in NETWORKS if name in networks],
            "description": description,
            "recipe": None if recipe is None else recipe.to_yaml(),
        }
    )


def networks_of_run(checkpoint: Checkpoint) -> dict[str, Mapping[str, Tensor]]:
    """Return the weights of both players of a checkpoint, and the generator's moving average."""
    players: Mapping[str, Mapping[str, Tensor]] = checkpoint.game["networks"]
    return {**players, "average": checkpoint.game["average"]}


def read_trainable(folder: Path, manifest: Manifest) -> TrainableWeights:
    """Read the trainable weights of a model folder. Raises FineTuningError."""
    if manifest.trainable is None:
        raise FineTuningError(
            f"{folder} has no trainable weights, only graphs: write the model again with "
            "ganymede export RUN --trainable, or ganymede import FILE --trainable"
        )
    path = folder / TRAINABLE_FILE
    if not path.is_file():
        raise FineTuningError(f"{path} is missing")
    if file_sha256(path) != manifest.trainable.sha256:
        raise FineTuningError(f"{path} is damaged or from another model: its SHA-256 does not fit")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise FineTuningError(f"{path} cannot be read: {first_line(error)}") from error
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        networks.setdefault(network, {})[name] = tensor
    text = manifest.trainable.recipe
    try:
        recipe = None if text is None else Recipe.model_validate(yaml.safe_load(text))
    except ValueError as error:
        raise FineTuningError(f"the recipe of {folder} is invalid: {first_line(error)}") from error
    return TrainableWeights(networks, recipe, manifest.trainable.description)
