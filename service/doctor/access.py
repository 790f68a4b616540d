"""Checks the settings that decide who may send requests, and the port."""

from __future__ import annotations

import http.client
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from service.addresses import assert_port_free, resolve
from service.api_keys import KeysError, read_keys
from service.doctor.findings import Finding, error, fine, warning
from service.runtime.errors import UserError
from service.settings import Settings

_TIMEOUT_S = 2.0


def check_access(settings: Settings, host: str, port: int) -> Iterator[Finding]:
    """Check the file of keys, and whether the service could listen on `port`."""
    if settings.keys is not None:
        yield check_keys(settings)
    yield check_port(host, port)


def check_keys(settings: Settings) -> Finding:
    """Check the file of API keys."""
    path = settings.keys
    assert path is not None  # noqa: S101 - for the type checker
    add = f"ganymede keys add NAME --keys {path}"
    try:
        keys = read_keys(path)
        mode = path.stat().st_mode if path.exists() else 0
    except (KeysError, OSError) as problem:
        return error("keys", str(problem), f"restore the file, or create a new one: {add}")
    now = datetime.now(UTC)
    valid = sum(not key.has_expired(now) for key in keys)
    text = f"{valid} of {len(keys)} keys in {path} are valid"
    if not valid:
        return error("keys", text, add)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return warning("keys", f"{text}; other users can read the file", f"chmod 600 {path}")
    return fine("keys", text, valid=valid)


def check_port(host: str, port: int) -> Finding:
    """Check whether a service could listen on `port`, or already does."""
    try:
        address = resolve(host)
        assert_port_free(address, port)
    except UserError as problem:
        if "is in use" not in str(problem):
            return error("port", str(problem), "choose another --host or --port")
        if is_ganymede(address, port):
            return fine("port", f"{port} on {host}: Ganymede is serving", serving=True)
        advice = f"stop the program (ss -ltnp 'sport = :{port}'), or choose another --port"
        return error("port", f"{port} on {host} is in use by another program", advice)
    return fine("port", f"{port} on {host} is free", serving=False)


def is_ganymede(address: str, port: int) -> bool:
    """Return whether the server on a port states in its API schema that it is Ganymede."""
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/openapi.json")
        schema = json.loads(connection.getresponse().read(2**24))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    info = schema.get("info") if isinstance(schema, dict) else None
    return isinstance(info, dict) and info.get("title") == "Ganymede"
