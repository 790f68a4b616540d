"""API keys, and the file that holds their hashes.

A key is ``gnm_<id>_<secret>``: a public id of 8 hexadecimal digits, which locates its entry, and a
secret of 256 random bits. The file holds the SHA-256 of the whole key. A slow
hash (bcrypt, scrypt, argon2) would slow down every request, and only protects secrets that can be
guessed, unlike 256 random bits. Hashes are compared in constant time. The lookup by id leaks only
the id.

Invariants: the file is complete or absent, only its owner can read it, and concurrent commands do
not lose each other's changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.runtime.errors import UserError
from service.runtime.files import replacing

log = logging.getLogger("ganymede.keys")

PriorityName = Literal["high", "normal", "low"]
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_KEY = re.compile(r"gnm_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_DURATION = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# The hash that keys with an unknown id are compared with, so that both cases take the same time.
_UNKNOWN_KEY_HASH = hashlib.sha256(b"unknown").hexdigest()


class KeysError(UserError):
    """The file of keys cannot be read or changed, or an argument is invalid."""


class Key(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{_NAME}$")
    id: str = Field(pattern="^[0-9a-f]{8}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    admin: bool = False
    pixels_per_minute: Annotated[int, Field(gt=0)] | None = None
    # None: that of the service.
    max_priority: PriorityName | None = None
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """True if the key has expired at the time `now`."""
        return self.expires is not None and now >= self.expires


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key]

    @model_validator(mode="after")
    def _assert_unique(self) -> _KeysFile:
        for field in ("name", "id"):
            values = [getattr(key, field) for key in self.keys]
            if len(set(values)) != len(values):
                raise ValueError(f"two keys have the same {field}")
        return self


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file. Raises KeysError if it cannot be read or is invalid."""
    try:
        return _KeysFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        reason = f"{where}: {problem['msg']}" if where else problem["msg"]
        raise KeysError(f"{path} is not a file of API keys: {reason}") from error


def add_key(
    path: Path,
    name: str,
    *,
    admin: bool = False,
    pixels_per_minute: int | None = None,
    max_priority: PriorityName | None = None,
    expires: datetime | None = None,
) -> str:
    """Create a key, add its entry to the file, and return it. It cannot be recovered later.

    The file is created if it does not exist. Raises KeysError.
    """
    if not re.fullmatch(_NAME, name):
        raise KeysError(
            f"NAME: {name[:80]!r} is invalid; expected up to 64 letters, digits, dots, dashes and "
            "underscores, the first one a letter or digit"
        )
    if pixels_per_minute is not None and pixels_per_minute <= 0:
        raise KeysError(f"--pixels-per-minute: expected 1 or more, got {pixels_per_minute}")
    now = datetime.now(UTC).replace(microsecond=0)
    if expires is not None and expires <= now:
        raise KeysError(f"--expires: {expires.isoformat()} is in the past")
    with _edit(path) as keys:
        if any(key.name == name for key in keys):
            raise KeysError(
                f"{path} already has a key {name!r}; revoke it first, or use another name"
            )
        used_ids = {key.id for key in keys}
        while (key_id := secrets.token_hex(4)) in used_ids:
            pass
        secret = f"gnm_{key_id}_{secrets.token_urlsafe(32)}"
        keys.append(
            Key(
                name=name,
                id=key_id,
                sha256=_sha256(secret),
                admin=admin,
                pixels_per_minute=pixels_per_minute,
                max_priority=max_priority,
                created=now,
                expires=expires,
            )
        )
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from the file. Raises KeysError."""
    if not path.exists():
        raise KeysError(f"no such file: {path}")
    with _edit(path) as keys:
        remaining = [key for key in keys if key.name != name]
        if len(remaining) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"no key {name[:80]!r} in {path}; it has: {names}")
        keys[:] = remaining


def parse_duration(text: str) -> timedelta | None:
    """Parse a duration (``30d``, ``12h``, ``2w``, ``90m``); None for any other text."""
    match = _DURATION.fullmatch(text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_expiry(text: str, now: datetime | None = None) -> datetime:
    """Parse a duration from now (``30d``, ``12h``, ``2w``, ``90m``) or an ISO 8601 date.

    A date without an offset is UTC. Raises KeysError.
    """
    now = now or datetime.now(UTC).replace(microsecond=0)
    try:
        if (duration := parse_duration(text)) is not None:
            return now + duration
        date = datetime.fromisoformat(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise KeysError(
            f"--expires: {text[:80]!r} is not a time; expected 30d, 12h or 2030-01-31, for example"
        ) from error


class KeyRing:
    """The valid keys of a file, which is read again when it changes.

    Keys expire by the latest time that the system clock has shown, so that a clock that is set back
    does not revive them.

    If the file becomes unreadable, the previously read keys stay valid, and an error is logged. A
    file that is unreadable from the start gives no valid keys.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = clock()
        self._signature: object = None
        self._keys: dict[str, Key] = {}
        self._reload()

    def find(self, presented: str) -> Key | None:
        """Return the entry of the key `presented`; None if it is unknown, revoked or expired."""
        self._reload()
        match = _KEY.fullmatch(presented)
        key = self._keys.get(match[1]) if match else None
        expected_hash = key.sha256 if key else _UNKNOWN_KEY_HASH
        is_equal = hmac.compare_digest(_sha256(presented), expected_hash)
        self._now = max(self._now, self._clock())
        if key is None or not is_equal or key.has_expired(self._now):
            return None
        return key

    def _reload(self) -> None:
        """Read the file if it has changed."""
        try:
            stat = self._path.stat()
            signature: object = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError as error:
            signature = error.errno
        if signature == self._signature:
            return
        self._signature = signature
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            log.error("the previously read keys stay valid: %s", error)
            return
        self._keys = {key.id: key for key in keys}
        log.info("%d keys loaded from %s", len(keys), self._path)


@contextlib.contextmanager
def _edit(path: Path) -> Iterator[list[Key]]:
    """Yield the keys of a file, and write the list back at the end.

    Waits for other processes that edit the file. Raises KeysError.
    """
    # A symbolic link stays; its target is replaced.
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            keys = read_keys(path) if path.exists() else []
            yield keys
            _write(path, keys)
    except OSError as error:
        raise KeysError(f"{path} cannot be changed: {error.strerror}") from error


def _write(path: Path, keys: Sequence[Key]) -> None:
    document = {"keys": [key.model_dump(mode="json", exclude_none=True) for key in keys]}
    with replacing(path) as temporary:
        # Never readable by others, not even while it is written.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(document, file, indent=2)
            file.write("\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file next to `path`, which itself is replaced by each edit."""
    import fcntl  # noqa: PLC0415 - POSIX only, and not needed to serve

    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(presented: str) -> str:
    return hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
