"""What `ganymede` prints without a command: what one can do next, on this machine.

Reads as little as possible: it answers at once, also if the installation is incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service import __version__
from service.runtime.errors import UserError
from service.settings import address_of, load_settings

_TRAINING_LIBRARIES = ("torch", "onnx", "yaml")
_INSTALL_TRAINING = "pip install 'ganymede[train,quality]'"
# The task of models that need no image as their input.
_GENERATE = "generate"


@dataclass(frozen=True)
class Repository:
    """The model repository, as far as its manifests can be read."""

    folder: Path
    # Why the settings cannot be loaded.
    problem: str | None = None
    # Where the models are fetched from, if they are not in a folder.
    address: str | None = None
    # Distinct names of models; all, and those that generate images from noise.
    names: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()


def find_repository() -> Repository:
    """Return the model repository of the settings."""
    try:
        folder = load_settings().models
    except UserError as error:
        return Repository(Path("models"), problem=str(error))
    if (address := address_of(folder)) is not None:
        return Repository(folder, address=address)
    names, generators = [], []
    try:
        for path in sorted(folder.glob("[!.]*/[!.]*/model.json")):
            names.append(path.parent.parent.name)
            if _task(path) == _GENERATE:
                generators.append(names[-1])
    except OSError:
        pass
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    distinct = tuple(dict.fromkeys(names)), tuple(dict.fromkeys(generators))
    return Repository(folder, names=distinct[0], generators=distinct[1])


def training_is_installed() -> bool:
    """Return whether the libraries for training and import are installed, without loading them."""
    return all(find_spec(name) for name in _TRAINING_LIBRARIES)


def welcome(repository: Repository, commands: Collection[str], *, training: bool) -> str:
    """Return the text, for the `commands` that exist; `training` tells if training is installed."""
    steps: list[str] = []
    needs = "" if training else f"  (first: {_INSTALL_TRAINING})"
    steps += ["You have a generator, and want an endpoint:"]
    steps += _commands(
        commands,
        ("import latest_net_G.pth", f"turn a checkpoint into a model{needs}"),
        ("pull", "list public models; NAME downloads one"),
        ("serve", _served(repository)),
    )
    steps += ["", f"You have images, and want a generator of your own{needs}:"]
    steps += _commands(
        commands,
        ("data photos/", "check the images, and prepare them"),
        ("train dcgan-fashion data.path=photos/ data.channels=3 --out runs/mine", ""),
        ("export runs/mine", "write a model that serve finds"),
    )
    steps += ["", "You need many images:"]
    if repository.generators:
        name = repository.generators[0]
        steps += _commands(commands, (f"sample {name} --count 10000 --out data/", "write them"))
    else:
        steps += _commands(
            commands, ("sample MODEL --count 10000 --out data/", "needs a model: see above")
        )
    if repository.problem:
        steps += ["", f"The settings are invalid: {repository.problem}"]
    title = f"Ganymede {__version__}: train GAN generators, export them, and serve them over HTTP."
    end = "ganymede doctor checks this installation. ganymede --help lists all commands."
    return "\n".join([title, "", *steps, "", end])


def _commands(existing: Collection[str], *lines: tuple[str, str]) -> list[str]:
    return [
        f"  ganymede {command:<49}  {text}".rstrip()
        for command, text in lines
        if command.partition(" ")[0] in existing
    ]


def _served(repository: Repository) -> str:
    if repository.address is not None:
        return f"serve the models of {repository.address}, at http://127.0.0.1:3000/"
    count = len(repository.names)
    if not count:
        return f"serve the models in {repository.folder} (there are none yet)"
    models = "the model" if count == 1 else f"the {count} models"
    return f"serve {models} in {repository.folder}, at http://127.0.0.1:3000/"


def _task(manifest: Path) -> str | None:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return None
    return content.get("task") if isinstance(content, dict) else None
