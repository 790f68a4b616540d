"""The catalog of public models, in ``catalog.toml``.

Every address is the one that the authors publish. Every checksum names the public source that
states it; a file for which no source states one is marked so, and its download asks.
"""

from __future__ import annotations

import difflib
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.pull.cache import RemoteFile
from service.pull.checksums import Checksum
from service.pull.locations import Location
from service.runtime.errors import UserError
from service.runtime.models.parts.part import Slug
from service.runtime.models.parts.tasks import Task

_FILE = Path(__file__).with_name("catalog.toml")


class UnknownModel(UserError):
    """No model of the catalog has this name."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class License(_Part):
    """A license: its name, its address, and what it asks of a user; empty if nothing unusual."""

    name: str
    url: str
    conditions: str = ""


class PublishedFile(_Part):
    """A file, with the checksum that a public source states, and the source."""

    address: str
    checksum: str | None = None
    stated_by: str | None = None
    # In bytes.
    size: Annotated[int, Field(gt=0)] | None = None

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        Location.parse(address)
        return address

    @field_validator("checksum")
    @classmethod
    def _is_a_checksum(cls, checksum: str | None) -> str | None:
        return checksum and str(Checksum.parse(checksum))

    @model_validator(mode="after")
    def _has_a_source(self) -> PublishedFile:
        if (self.checksum is None) != (self.stated_by is None):
            raise ValueError("checksum and stated_by go together")
        return self

    def remote(self) -> RemoteFile:
        """Return the file to fetch."""
        checksum = Checksum.parse(self.checksum) if self.checksum else None
        return RemoteFile(Location.parse(self.address), checksum, self.size)


class CatalogModel(_Part):
    """A public model: what it is, where its files are, and how it is imported."""

    name: Slug
    # One line.
    title: str
    # What its images show.
    preview: str
    task: Task
    # The size of the images, or the factor of an upscaler.
    image: str
    # The page on which the authors publish the model.
    page: str
    license: License
    # The first is given to the importer.
    files: tuple[PublishedFile, ...] = Field(min_length=1)
    # Options of `ganymede import`.
    import_options: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes of all files; None if one is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def check(self) -> str:
        """The weakest kind of checksum of the files, or ``none``."""
        kinds = [Checksum.parse(file.checksum).kind for file in self.files if file.checksum]
        order = list(type(kinds[0])) if kinds else []
        return max(kinds, key=order.index) if len(kinds) == len(self.files) else "none"


@lru_cache(maxsize=1)
def read_catalog() -> dict[str, CatalogModel]:
    """Return the models of the catalog by name."""
    content: dict[str, Any] = tomllib.loads(_FILE.read_text("utf-8"))
    licenses = {key: License(**value) for key, value in content["licenses"].items()}
    models = [
        CatalogModel(**{**entry, "license": licenses[entry["license"]]})
        for entry in content["models"]
    ]
    return {model.name: model for model in models}


def find_model(name: str) -> CatalogModel:
    """Return a model of the catalog. Raises UnknownModel with the nearest names."""
    models = read_catalog()
    if name in models:
        return models[name]
    near = difflib.get_close_matches(name, models, n=3, cutoff=0.4)
    near += [each for each in models if name and name in each and each not in near][:3]
    hint = f"did you mean {', '.join(near)}?" if near else "ganymede pull lists the names"
    raise UnknownModel(f"the catalog has no model {name!r}; {hint}")
