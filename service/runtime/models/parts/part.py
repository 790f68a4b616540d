"""The base class of the parts of a manifest, and the types of their fields."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_TEXT = 10_000
# Names and versions are path components and part of URLs: lower case, no separators.
SLUG = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
Slug = Annotated[str, StringConstraints(pattern=SLUG.pattern)]
SHA256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class Part(BaseModel):
    """A part of the manifest: unknown keys are rejected, and values do not change."""

    # Texts go into headers, metadata and paths, and a reader must not run out of memory.
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=MAX_TEXT)
