"""Writes a shard: as single files, a WebDataset tar, a Parquet file, or texts as JSON Lines.

The bytes depend on the shard only: files are in order, and contain no times or user names.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from service.offline.inputs import key_of
from service.offline.job import JobItem, Layout, SamplingJob
from service.offline.stores import Store
from service.runtime.audio.formats import AudioFormat
from service.runtime.images.encoding import provenance_text
from service.runtime.request_fields import InvalidRequest

# Images in one row group, the unit in which Parquet files are read.
_ROW_GROUP = 100
# Bytes of images in one row group, which is kept in memory until it is written.
_ROW_GROUP_BYTES = 256 * 2**20


class ShardWriter(Protocol):
    """Writes the images, sounds or texts of one shard, in order."""

    def add(self, item: JobItem, file: bytes) -> dict[str, Any]:
        """Write one of them, and return the fields of the metadata that tell where it is."""


def open_shard_writer(
    job: SamplingJob, classes: tuple[str, ...], store: Store, shard: int
) -> AbstractContextManager[ShardWriter]:
    """Open the writer for a shard. The shard exists once the context has ended without error."""
    return _WRITERS[job.layout](job, classes, store, shard)


def assert_layout_supported(layout: Layout) -> None:
    """Raise InvalidRequest if a layout needs a library that is not installed."""
    if layout is Layout.PARQUET:
        try:
            import pyarrow  # noqa: F401, PLC0415
        except ModuleNotFoundError as error:
            raise InvalidRequest(
                "format", "parquet needs pyarrow: pip install 'ganymede[parquet]'"
            ) from error


def shard_name(job: SamplingJob, shard: int) -> str | None:
    """Return the file name of a shard; None if each image is a file."""
    digits = max(5, len(str(job.shards - 1)))
    kind = "sounds" if isinstance(job.image, AudioFormat) else "images"
    match job.layout:
        case Layout.FOLDER:
            return None
        case Layout.WEBDATASET:
            return f"{kind}-{shard:0{digits}}.tar"
        case Layout.PARQUET:
            return f"images-{shard:0{digits}}.parquet"
        case Layout.JSONL:
            return f"texts-{shard:0{digits}}.jsonl"


class _FolderWriter:
    def __init__(self, job: SamplingJob, store: Store) -> None:
        self._extension = job.image.extension
        self._store = store

    def add(self, item: JobItem, file: bytes) -> dict[str, Any]:
        name = f"{item.stem}.{self._extension}"
        self._store.write(name, file)
        # Hugging Face's datasets finds the image by a column of this name.
        return {"file_name": name}


@contextmanager
def _folder(job: SamplingJob, _: tuple[str, ...], store: Store, __: int) -> Iterator[ShardWriter]:
    yield _FolderWriter(job, store)
    store.sync()


class _TarWriter:
    def __init__(self, job: SamplingJob, shard: str, out: io.BufferedWriter) -> None:
        self._extension = job.image.extension
        self._shard = shard
        self._out = out

    def add(self, item: JobItem, file: bytes) -> dict[str, Any]:
        # Names of generated images are unique without their folder; names of input files are not.
        key = item.stem.rpartition("/")[2] if item.input_file is None else key_of(item.stem)
        name = f"{key}.{self._extension}"
        self._write_member(name, file)
        if item.class_index is not None:
            self._write_member(f"{key}.cls", str(item.class_index).encode())
        class_name = {} if item.class_name is None else {"class_name": item.class_name}
        self._write_member(
            f"{key}.json", provenance_text({**class_name, **item.parameters}).encode()
        )
        return {"shard": self._shard, "member": name}

    def _write_member(self, name: str, content: bytes) -> None:
        # Default header fields only, because owner and time would make the bytes differ.
        info = tarfile.TarInfo(name)
        info.size = len(content)
        # PAX equals ustar, except for long or non-ASCII names, which ustar cannot represent.
        self._out.write(info.tobuf(tarfile.PAX_FORMAT))
        self._out.write(content)
        self._out.write(bytes(-len(content) % tarfile.BLOCKSIZE))


@contextmanager
def _webdataset(
    job: SamplingJob, _: tuple[str, ...], store: Store, shard: int
) -> Iterator[ShardWriter]:
    with _shard_file(job, store, shard) as (name, path), path.open("wb") as out:
        yield _TarWriter(job, name, out)
        out.write(bytes(-out.tell() % tarfile.RECORDSIZE or tarfile.RECORDSIZE))


class _ParquetWriter:
    def __init__(self, job: SamplingJob, classes: tuple[str, ...], shard: str, path: Path) -> None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        self._pa = pa
        fields = [
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("seed", pa.int64()),
            pa.field("parameters", pa.string()),
        ]
        features: dict[str, Any] = {
            "image": {"_type": "Image"},
            "seed": {"dtype": "int64", "_type": "Value"},
            "parameters": {"dtype": "string", "_type": "Value"},
        }
        if classes:
            fields.insert(1, pa.field("label", pa.int64()))
            features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        # Hugging Face's datasets reads the column types from this.
        dataset_info = {"info": {"features": {f.name: features[f.name] for f in fields}}}
        self._schema = pa.schema(fields, metadata={"huggingface": json.dumps(dataset_info)})
        self._writer = pq.ParquetWriter(path, self._schema, compression="none")
        self._extension = job.image.extension
        self._shard = shard
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, item: JobItem, file: bytes) -> dict[str, Any]:
        path = f"{item.stem}.{self._extension}"
        row = {
            "image": {"bytes": file, "path": path},
            "label": item.class_index,
            "seed": item.seed,
            "parameters": provenance_text(item.parameters),
        }
        self._rows.append(row)
        self._bytes += len(file)
        if len(self._rows) == _ROW_GROUP or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()
        return {"shard": self._shard, "member": path}

    def close(self, *, complete: bool) -> None:
        if complete:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()
            self._bytes = 0


@contextmanager
def _parquet(
    job: SamplingJob, classes: tuple[str, ...], store: Store, shard: int
) -> Iterator[ShardWriter]:
    with _shard_file(job, store, shard) as (name, path):
        writer = _ParquetWriter(job, classes, name, path)
        try:
            yield writer
        except BaseException:
            writer.close(complete=False)
            raise
        writer.close(complete=True)


class _LineWriter:
    def __init__(self, shard: str, out: io.BufferedWriter) -> None:
        self._shard = shard
        self._out = out
        self._lines = 0

    def add(self, _: JobItem, file: bytes) -> dict[str, Any]:
        self._out.write(file)
        self._lines += 1
        return {"shard": self._shard, "line": self._lines}


@contextmanager
def _json_lines(
    job: SamplingJob, _: tuple[str, ...], store: Store, shard: int
) -> Iterator[ShardWriter]:
    with _shard_file(job, store, shard) as (name, path), path.open("wb") as out:
        yield _LineWriter(name, out)


@contextmanager
def _shard_file(job: SamplingJob, store: Store, shard: int) -> Iterator[tuple[str, Path]]:
    """Yield the name of the file of a shard, and where it is written."""
    name = shard_name(job, shard)
    assert name is not None  # noqa: S101 - only called for layouts with shard files
    with store.new(name) as path:
        yield name, path
        _fsync(path)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


_WRITERS: dict[
    Layout,
    Callable[[SamplingJob, tuple[str, ...], Store, int], AbstractContextManager[ShardWriter]],
] = {
    Layout.FOLDER: _folder,
    Layout.WEBDATASET: _webdataset,
    Layout.PARQUET: _parquet,
    Layout.JSONL: _json_lines,
}
