"""Data sets that recipes can refer to by name, and where to find them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from training.data.sources import DataError


@dataclass(frozen=True)
class KnownDataset:
    """Title, license, possible locations and class names of a data set.

    `files` are names in the folder ``$GANYMEDE_DATA``; `system_path` is where `debian_package`
    installs it; `hub` is its ``owner/name`` on the Hugging Face hub.
    """

    title: str
    license: str
    files: tuple[str, ...] = ()
    system_path: Path | None = None
    debian_package: str | None = None
    hub: str | None = None
    class_names: tuple[str, ...] = ()


KNOWN_DATASETS = {
    "mnist": KnownDataset(
        title="MNIST",
        license="CC BY-SA 3.0",
        hub="ylecun/mnist",
        class_names=tuple("0123456789"),
    ),
    "fashion-mnist": KnownDataset(
        title="Fashion-MNIST",
        license="MIT",
        system_path=Path("/usr/share/datasets/fashion-mnist"),
        debian_package="dataset-fashion-mnist",
        hub="zalando-datasets/fashion_mnist",
        class_names=(
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle-boot",
        ),
    ),
    "flowers": KnownDataset(
        title="TensorFlow flower photos",
        license="CC BY 2.0",
        files=("flowers128.zip",),
    ),
    "tiles": KnownDataset(
        title="Dungeon Crawl Stone Soup tiles",
        license="CC0",
        files=("dcss32.zip",),
    ),
    "emoji": KnownDataset(
        title="Emoji of Noto, Twemoji and Fluent",
        license="Apache-2.0, CC BY 4.0, MIT",
        files=("emoji64.zip",),
    ),
    "cifar10": KnownDataset(
        title="CIFAR-10",
        license="none stated",
        files=("cifar10-train.zip",),
        hub="uoft-cs/cifar10",
    ),
    "spoken-digits": KnownDataset(
        title="Free Spoken Digit Dataset",
        license="CC BY-SA 4.0",
        files=("spoken-digits.zip",),
    ),
}


class DatasetMissing(DataError):
    """A named data set was not found. The message lists the ways to provide it."""

    def __init__(self, reason: str, name: str, path_option: str = "data.path=PATH") -> None:
        """Build the message; `path_option` is the option with which the user sets a path."""
        super().__init__(f"{reason}; {_suggestions(name, path_option)}")
        self._reason, self._name = reason, name

    def with_path_option(self, path_option: str) -> DatasetMissing:
        """Return the same error with another way to set a path, such as ``--data PATH``."""
        return DatasetMissing(self._reason, self._name, path_option)


def class_names(name: str | None, own: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of the data set `name`; `own` are the names in its source.

    The names of a known data set replace only the numbers 0, 1, …. Names of class folders are kept,
    because their order may differ.
    """
    known = KNOWN_DATASETS.get(name or "")
    if known and list(own) == [str(i) for i in range(len(known.class_names))]:
        return known.class_names
    return tuple(own)


def locate_dataset(name: str) -> Path | str:
    """Find a data set by name: in ``$GANYMEDE_DATA``, as a system package, or on the hub.

    Returns a path or ``hub:owner/name``. Raises DatasetMissing.
    """
    known = KNOWN_DATASETS.get(name, KnownDataset(title=name, license="unknown"))
    if folder := os.environ.get("GANYMEDE_DATA"):
        for file in (name, f"{name}.zip", *known.files):
            if (path := Path(folder) / file).exists():
                return path
    if known.system_path and known.system_path.exists():
        return known.system_path
    if known.hub and datasets_installed():
        return f"hub:{known.hub}"
    raise DatasetMissing(f"data set {name!r} was not found", name)


def _suggestions(name: str, path_option: str) -> str:
    """List the ways to provide the data set, in one line."""
    known = KNOWN_DATASETS.get(name)
    ways = [path_option, f"a folder or ZIP named {name} in $GANYMEDE_DATA"]
    if known and known.debian_package:
        ways.append(f"apt install {known.debian_package}")
    if known and known.hub and not datasets_installed():
        ways.append("pip install 'ganymede[hub]' to download it")
    return f"provide it with {', or '.join(ways)}"


def datasets_installed() -> bool:
    """Return whether the `datasets` library is installed, which downloads from the hub."""
    return find_spec("datasets") is not None
