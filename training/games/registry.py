"""The registry of games."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import training.games
from training.games.options import GameOptions
from training.recipe.choices import OneOf, kinds

# The default game of a recipe.
DEFAULT = "noise_to_image"

Game = Annotated[GameOptions, OneOf("kind", default=DEFAULT)]


def register_games() -> None:
    """Import the options of every game, which registers the game for recipes."""
    for module in pkgutil.iter_modules(training.games.__path__, "training.games."):
        if module.ispkg and importlib.util.find_spec(f"{module.name}.options"):
            importlib.import_module(f"{module.name}.options")


def games() -> dict[str, type[GameOptions]]:
    """Return the options of every registered game, by name."""
    return kinds(GameOptions, "kind")  # type: ignore[type-abstract]


def default_game() -> GameOptions:
    """Return the default game with its default options."""
    game: GameOptions = games()[DEFAULT].model_validate({})
    return game
