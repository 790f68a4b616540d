"""Reads Server-Sent Events of a response as they arrive."""

import json
from collections.abc import Iterator

import httpx


def read_events(response: httpx.Response) -> Iterator[dict]:
    """Yield the fields of each event of a response; `data` is parsed, comments are `comment`."""
    fields: dict = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name or "comment"] = json.loads(value) if name == "data" else value
        elif fields:
            yield fields
            fields = {}
