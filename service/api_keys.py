"""Keys, and the file that holds what is known of them: never the keys themselves.

A key is ``gnm_<id>_<secret>``: a public id of 8 hexadecimal digits, by which its entry is found,
and a secret of 256 random bits. The file holds the SHA-256 of the whole key. A slow hash (bcrypt,
scrypt, argon2) protects what people can think of, by making each guess dear; 256 random bits cannot
be guessed at any price, and a slow hash would be paid by every request. The hashes are compared in
constant time, and what the id reveals by being looked up is public.

What always holds: the file is whole or not there, is readable by its owner alone, and two commands
at a time lose nothing of each other's.
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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.runtime.errors import UserError
from service.runtime.files import replacing

log = logging.getLogger("ganymede.keys")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_KEY = re.compile(r"gnm_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_DURATION = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Compared with where the id is not known, so that both ways take the same time.
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


class KeysError(UserError):
    """Keys cannot be read or changed as asked."""


class Key(BaseModel):
    """What the file says of one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{_NAME}$")
    id: str = Field(pattern="^[0-9a-f]{8}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    admin: bool = False
    pixels_per_minute: Annotated[int, Field(gt=0)] | None = None
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Whether the key is past its time."""
        return self.expires is not None and now >= self.expires


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key]

    @model_validator(mode="after")
    def _each_once(self) -> _KeysFile:
        for field in ("name", "id"):
            values = [getattr(key, field) for key in self.keys]
            if len(set(values)) != len(values):
                raise ValueError(f"two keys have the same {field}")
        return self


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file. Raises KeysError, in one line."""
    try:
        return _KeysFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        reason = f"{where}: {problem['msg']}" if where else problem["msg"]
        raise KeysError(f"{path} is not a file of keys: {reason}") from error


def add_key(
    path: Path,
    name: str,
    *,
    admin: bool = False,
    pixels_per_minute: int | None = None,
    expires: datetime | None = None,
) -> str:
    """Make a key, write down what is to be known of it, and return it: it cannot be had again.

    The file is made where there is none. Raises KeysError.
    """
    if not re.fullmatch(_NAME, name):
        raise KeysError(
            f"NAME: {name[:80]!r} cannot be used; it begins with a letter or digit and has up to "
            "64 letters, digits, dots, dashes and underscores"
        )
    if pixels_per_minute is not None and pixels_per_minute <= 0:
        raise KeysError(f"--pixels-per-minute: expected 1 or more, got {pixels_per_minute}")
    now = datetime.now(UTC).replace(microsecond=0)
    if expires is not None and expires <= now:
        raise KeysError(f"--expires: {expires.isoformat()} has passed")
    with _changing(path) as keys:
        if any(key.name == name for key in keys):
            raise KeysError(f"there is a key {name!r} in {path}; revoke it first, or take a name")
        taken = {key.id for key in keys}
        key_id = next(new for _ in iter(int, 1) if (new := secrets.token_hex(4)) not in taken)
        secret = f"gnm_{key_id}_{secrets.token_urlsafe(32)}"
        keys.append(
            Key(
                name=name,
                id=key_id,
                sha256=_sha256(secret),
                admin=admin,
                pixels_per_minute=pixels_per_minute,
                created=now,
                expires=expires,
            )
        )
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Forget a key. Raises KeysError."""
    if not path.exists():
        raise KeysError(f"no such file: {path}")
    with _changing(path) as keys:
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            there = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"no key {name[:80]!r} in {path}; there are: {there}")
        keys[:] = left


def parse_expiry(text: str, now: datetime | None = None) -> datetime:
    """Read a time from now (``30d``, ``12h``, ``2w``, ``90m``) or a date, in UTC unless it says.

    Raises KeysError.
    """
    now = now or datetime.now(UTC).replace(microsecond=0)
    try:
        if found := _DURATION.fullmatch(text):
            return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
        date = datetime.fromisoformat(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise KeysError(
            f"--expires: {text[:80]!r} is not a time; expected such as 30d, 12h or 2030-01-31"
        ) from error


class KeyRing:
    """The keys in force: those of a file, which is read again when it has changed.

    A file that cannot be read leaves the last good keys in force, and the log says so. Until there
    have been any, nobody gets in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._keys: dict[str, Key] = {}
        self._look()

    def find(self, presented: str) -> Key | None:
        """Return the key that `presented` is; None for one that is unknown, revoked or expired."""
        self._look()
        matched = _KEY.fullmatch(presented)
        key = self._keys.get(matched[1]) if matched else None
        right = hmac.compare_digest(_sha256(presented), key.sha256 if key else _NOBODY)
        if key is None or not right or key.has_expired(datetime.now(UTC)):
            return None
        return key

    def _look(self) -> None:
        """Read the file if it is another than last time."""
        try:
            stat = self._path.stat()
            found: object = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError as error:
            found = error.errno
        if found == self._seen:
            return
        self._seen = found
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            log.error("the keys stay as they were: %s", error)
            return
        self._keys = {key.id: key for key in keys}
        log.info("%d keys are in force, from %s", len(keys), self._path)


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """Yield the keys of a file for changing; what is in the list at the end is what the file says.

    Who else is changing it is waited for, and then what they wrote is what is changed.
    """
    # A link stays a link: what it leads to is replaced.
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
        # Never readable by others, not even before it is whole.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(document, file, indent=2)
            file.write("\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock beside `path`, which is itself replaced and so cannot carry one."""
    import fcntl  # noqa: PLC0415 - POSIX alone has it, and serving goes without

    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(presented: str) -> str:
    return hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
