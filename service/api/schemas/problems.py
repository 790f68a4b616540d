"""The body of an error."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    request_id: str | None = Field(default=None, description="Also in the header X-Request-Id.")
