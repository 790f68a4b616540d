"""Reads the files that W&B writes offline, without a server."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.servers import wait_until

# The log format of LevelDB: blocks of 32 KiB with records of a checksum, a length and a kind, after
# a header of 7 bytes.
_BLOCK, _HEADER = 32_768, 7
_FULL, _LAST = 1, 4


def rows(session: Path) -> list[dict[str, Any]]:
    """Return the logged rows of an offline session, a folder ``offline-run-…``."""
    found = []
    for record in _records(session):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({_key(item): json.loads(item.value_json) for item in items})
    return found


def config(session: Path) -> dict[str, Any]:
    """Return the configuration of an offline session."""
    values: dict[str, Any] = {}
    for record in _records(session):
        if record.WhichOneof("record_type") == "config":
            values |= {_key(item): json.loads(item.value_json) for item in record.config.update}
    return values


def summary(session: Path) -> dict[str, Any]:
    """Return the summary of an offline session."""
    values: dict[str, Any] = {}
    for record in _records(session):
        if record.WhichOneof("record_type") == "summary":
            values |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    return values


def exit_code(session: Path) -> int:
    """Return how a session ended. Raises ValueError if its end is not recorded."""
    (code,) = [
        record.exit.exit_code
        for record in _records(session)
        if record.WhichOneof("record_type") == "exit"
    ]
    return int(code)


def _records(session: Path) -> list[Any]:
    """Return the records of a session, once the service process has written the last one."""
    found: list[Any] = []

    def complete() -> bool:
        found[:] = _written_records(session)
        return bool(found) and found[-1].WhichOneof("record_type") == "exit"

    wait_until(complete)
    return found


def _written_records(session: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2 as messages

    (path,) = session.glob("run-*.wandb")
    data, at, part = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        part += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (_FULL, _LAST):
            record = messages.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
