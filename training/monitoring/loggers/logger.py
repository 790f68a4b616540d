"""The interface of loggers, and the loggers of a run.

A logger sends what a run measures to a viewer. To add one, write a module with a function
`open_logger`, and name it in `LoggerName` and `_KINDS`. Its package is imported only if a recipe
names the logger in `train.loggers`.

Loggers only describe a run. `log.jsonl` has the same values, and training, alarms and resuming
depend on that file alone, so that a logger that fails does not end a run.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image

from service.runtime.errors import UserError, first_line

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
# How a session of a run ended: at its last image, by a signal, or with an error.
Outcome = Literal["finished", "stopped", "failed"]

_log = logging.getLogger(__name__)


class LoggerUnavailable(UserError):
    """A logger cannot be used. The message says how to install it, or what it reported."""


@dataclass(frozen=True)
class LoggedRun:
    """What a logger needs to know about a run at the start of a session."""

    folder: Path
    name: str
    # The recipe with all defaults, as plain values.
    config: Mapping[str, Any]
    # Images seen so far; 0 unless the run is resumed.
    images: int


class Logger(Protocol):
    """Records one run. Every value belongs to a number of images seen.

    Its module has a function `open_logger(run: LoggedRun) -> Logger`. A resumed run continues the
    record of the run, without repeating the values that this has already.
    """

    # Where the run can be seen, in one line; "" for nothing worth saying.
    location: str

    def metrics(self, values: Mapping[str, float], images: int) -> None:
        """Record scalar metrics."""

    def sheet(self, sheet: Image.Image, images: int) -> None:
        """Record a sample sheet."""

    def text(self, name: str, text: str, images: int) -> None:
        """Record a message, such as that of an alarm."""

    def close(self, outcome: Outcome) -> None:
        """Write everything, and record how the session ended."""


class _Kind(NamedTuple):
    module: str
    # The package that the logger needs, and the argument of `pip install` that provides it.
    package: str
    requirement: str


_KINDS: dict[LoggerName, _Kind] = {
    "tensorboard": _Kind("tensorboard", "tensorboard", "ganymede[train]"),
    "wandb": _Kind("weights_and_biases", "wandb", "ganymede[wandb]"),
    "mlflow": _Kind("mlflow_tracking", "mlflow", "ganymede[mlflow]"),
}


def check_installed(names: Sequence[LoggerName]) -> None:
    """Raise LoggerUnavailable unless the packages of all named loggers are installed."""
    for name in names:
        kind = _KINDS[name]
        if find_spec(kind.package) is None:
            raise LoggerUnavailable(
                f"train.loggers: {name} is not installed: pip install '{kind.requirement}'"
            )


class Loggers:
    """Passes values on to all loggers. One that fails is reported, and not used any more."""

    def __init__(self) -> None:
        self._loggers: dict[LoggerName, Logger] = {}

    def open(self, name: LoggerName, run: LoggedRun) -> None:
        """Add a logger. Raises LoggerUnavailable if it cannot start."""
        module = importlib.import_module(f"{__package__}.{_KINDS[name].module}")
        try:
            self._loggers[name] = module.open_logger(run)
        except Exception as error:
            raise LoggerUnavailable(f"train.loggers: {name}: {first_line(error)}") from error

    @property
    def locations(self) -> list[str]:
        """Where the run can be seen, one line for each logger that says so."""
        return [f"{name}: {each.location}" for name, each in self._loggers.items() if each.location]

    def metrics(self, values: Mapping[str, float], images: int) -> None:
        """Record scalar metrics."""
        self._each(lambda logger: logger.metrics(values, images))

    def sheet(self, sheet: Image.Image, images: int) -> None:
        """Record a sample sheet."""
        self._each(lambda logger: logger.sheet(sheet, images))

    def text(self, name: str, text: str, images: int) -> None:
        """Record a message."""
        self._each(lambda logger: logger.text(name, text, images))

    def close(self, outcome: Outcome) -> None:
        """Close all loggers."""
        self._each(lambda logger: logger.close(outcome))
        self._loggers.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # noqa: BLE001 - trouble with a server must not end a run
                del self._loggers[name]
                _log.warning(
                    "train.loggers: %s failed and records nothing more in this session; log.jsonl "
                    "has all values: %s",
                    name,
                    first_line(error),
                )


@contextmanager
def open_loggers(names: Sequence[LoggerName], run: LoggedRun) -> Iterator[Loggers]:
    """Open the named loggers for one session of a run.

    Raises LoggerUnavailable if a package is missing, or if a logger cannot start.
    """
    check_installed(names)
    loggers = Loggers()
    outcome: Outcome = "failed"
    try:
        for name in names:
            loggers.open(name, run)
        yield loggers
        outcome = "finished"
    except UserError as error:
        # The exit status of a run that was stopped by a signal.
        outcome = "stopped" if error.exit_code > 128 else "failed"
        raise
    finally:
        loggers.close(outcome)
