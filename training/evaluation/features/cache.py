"""The cache of features: one SQLite file for each network, with one row for each image.

The key of a row is the digest of the image's pixels, so an evaluation with more images computes the
features of the new images only, wherever they come from. The least recently used rows are deleted
when a file exceeds its maximum size. A cache that cannot be read or written is not used: it never
fails an evaluation.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.files import cache_folder
from training.evaluation.features.networks import FeatureNetwork, Features, Progress

MAX_BYTES = 2**31
# The fraction of rows that is deleted when the file is too large.
_DELETED = 4
# Features are written after this many images, so that an interrupted evaluation keeps most of them.
_CHUNK = 512
# SQLite allows 32,766 parameters in a statement.
_KEYS = 1000
_LOCK_TIMEOUT_S = 30
_SECONDS_PER_DAY = 86_400

_TABLE = """
CREATE TABLE IF NOT EXISTS features (
    image BLOB PRIMARY KEY, -- the digest of the image
    used INTEGER NOT NULL,  -- the day of the last use, since 1970
    vector BLOB NOT NULL,   -- little-endian float32
    logits BLOB             -- the same, if the network has logits
)
"""
_LITTLE = np.dtype("<f4")
_LOGGER = logging.getLogger("ganymede.evaluation")

Row = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def cached_features(
    network: FeatureNetwork, pixels: NDArray[np.uint8], progress: Progress | None = None
) -> Features:
    """Return the features of images ``[N, H, W, C] uint8``, from the cache if possible.

    The features of other images are computed and written to the cache. Raises QualityError.
    """
    keys = [image_key(image) for image in pixels]
    path = cache_folder("features") / f"{network.key}.sqlite"
    known = _read(path, keys)
    # Equal images are computed once.
    missing = list({key: row for row, key in enumerate(keys) if key not in known}.items())
    done = len(pixels) - len(missing)
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]

        def show(computed: int, _: int, before: int = done + start) -> None:
            if progress:
                progress(before + computed, len(pixels))

        features = network.features(np.asarray(pixels[[row for _, row in chunk]]), show)
        logits = [None] * len(chunk) if features.logits is None else list(features.logits)
        computed = {
            key: (vector, each)
            for (key, _), vector, each in zip(chunk, features.vectors, logits, strict=True)
        }
        _write(path, computed)
        known |= computed
    rows = [known[key] for key in keys]
    all_logits = [logits for _, logits in rows if logits is not None]
    return Features(
        np.stack([vector for vector, _ in rows]),
        np.stack(all_logits) if len(all_logits) == len(rows) else None,
    )


def image_key(image: NDArray[np.uint8]) -> bytes:
    """Return the digest of an image ``[H, W, C]``: of its shape and its pixels."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _read(path: Path, keys: Sequence[bytes]) -> dict[bytes, Row]:
    """Return the rows with these keys, and record that they were used."""
    found: dict[bytes, Row] = {}
    if not path.exists():
        return found
    with _not_failing(path), closing(_connect(path)) as database, database:
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            marks = ",".join("?" * len(part))
            query = f"SELECT image, vector, logits FROM features WHERE image IN ({marks})"  # noqa: S608 - only question marks
            for key, vector, logits in database.execute(query, part):
                found[key] = (_array(vector), None if logits is None else _array(logits))
            database.execute(
                f"UPDATE features SET used = ? WHERE used < ? AND image IN ({marks})",  # noqa: S608
                (_today(), _today(), *part),
            )
    return found


def _write(path: Path, rows: dict[bytes, Row]) -> None:
    """Add rows, and delete the least recently used ones if the file is too large."""
    with _not_failing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(path)) as database, database:
            database.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)",
                [
                    (key, _today(), _bytes(vector), None if logits is None else _bytes(logits))
                    for key, (vector, logits) in rows.items()
                ],
            )
            if _used_bytes(database) > MAX_BYTES:
                database.execute(
                    "DELETE FROM features WHERE rowid IN (SELECT rowid FROM features ORDER BY "
                    "used, rowid LIMIT (SELECT count(*) / ? FROM features))",
                    (_DELETED,),
                )


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S)
    try:
        database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _used_bytes(database: sqlite3.Connection) -> int:
    """Return the bytes of the file without free pages, which later rows fill."""
    (used,) = database.execute(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, "
        "pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return int(used)


@contextmanager
def _not_failing(path: Path) -> Iterator[None]:
    """Log errors of the cache instead of raising them. A corrupt file is deleted."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        _warn(f"the cache of features, {path}, is not used: {error}")
        # Operational errors are those of the machine, such as a full disk or a lock.
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            path.unlink(missing_ok=True)


@cache
def _warn(message: str) -> None:
    """Log a warning once."""
    _LOGGER.warning(message)


def _today() -> int:
    return int(time.time()) // _SECONDS_PER_DAY


def _array(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, _LITTLE).astype(np.float32)


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype(_LITTLE).tobytes()
