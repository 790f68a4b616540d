"""The data sets that recipes name, and where to look for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from training.data.sources import DataError


@dataclass(frozen=True)
class KnownDataset:
    """A data set by its usual name: where it may lie, what it is called, who may use it."""

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
}


class DatasetMissing(DataError):
    """A data set cannot be had by its name alone; the line says how else it could be."""

    def __init__(self, why: str, name: str, way: str = "data.path=PATH") -> None:
        """Say why the data set `name` is missing; `way` is how a path is given here."""
        super().__init__(f"{why}; {_ways_to(name, way)}")
        self._why, self._name = why, name

    def with_hint(self, way: str) -> DatasetMissing:
        """Return the same where a path is given in another way than to a recipe."""
        return DatasetMissing(self._why, self._name, way)


def class_names(name: str | None, own: Sequence[str]) -> tuple[str, ...]:
    """Return what the classes of the data set `name` are called, whose source calls them `own`.

    The usual names of a known data set stand for numbers alone, in their order: folders have names,
    and an order, of their own.
    """
    known = KNOWN_DATASETS.get(name or "")
    if known and list(own) == [str(i) for i in range(len(known.class_names))]:
        return known.class_names
    return tuple(own)


def locate_dataset(name: str) -> Path | str:
    """Find a data set by name: in the folder GANYMEDE_DATA, where a package puts it, on the hub.

    Returns a path, or ``hub:owner/name``. Raises DataSetMissing, whose one line says what to do.
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
    raise DatasetMissing(f"data set {name!r} is not here", name)


def _ways_to(name: str, way: str) -> str:
    """Return what a user can do to have the data set, in one line."""
    known = KNOWN_DATASETS.get(name)
    ways = [way, f"a folder or ZIP {name} in $GANYMEDE_DATA"]
    if known and known.debian_package:
        ways.append(f"apt install {known.debian_package}")
    if known and known.hub and not datasets_installed():
        ways.append("pip install 'ganymede[hub]' to fetch it")
    return f"give it by {', or '.join(ways)}"


def datasets_installed() -> bool:
    """Whether the `datasets` library, which reads the hub, is there."""
    return find_spec("datasets") is not None
