"""Files of a folder or an archive: listed once, and read one at a time.

A folder may hold archives (ZIP, tar) beside image files; the members of all of them are listed
together. Symbolic links are followed, and every file is listed once.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, cast

from training.data.sources.source import DataError

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Folders of other systems that hold copies: macOS's in ZIP archives, and Synology's thumbnails.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
_ENCRYPTED = 0x1
# No image is larger; a small archive can claim to contain terabytes.
_MAX_MEMBER_BYTES = 2**31
_ARCHIVE_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class File:
    """One file: its unique `name`, and its `path` within the folder or archive (POSIX).

    They differ only for members of archives in a folder: the path leaves out the archive's name.
    """

    name: str
    path: str
    # Reads all bytes, or the first ones. Raises OSError.
    read: Callable[[int | None], bytes] = field(compare=False, repr=False)
    # Name of the archive in the folder that contains the file; "" for other files.
    archive: str = ""


@dataclass
class Listing:
    """The files of a folder or archive, by path, and what was left out with the reason."""

    files: list[File] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    # Folders that contain no file.
    empty_folders: list[str] = field(default_factory=list)

    def sort(self) -> Listing:
        """Sort the files by path."""
        self.files.sort(key=lambda file: (file.path, file.name))
        return self


def list_files(path: Path) -> Listing:
    """List a folder, a ZIP archive or a tar archive. Raises DataError."""
    if path.is_dir():
        return _with_text_names(_list_folder(path))
    kind = archive_kind(path)
    if kind is None:
        raise DataError(f"{path} is neither a folder nor a ZIP or tar archive")
    return _with_text_names(_list_archive(path, kind, "", ""))


def _with_text_names(listing: Listing) -> Listing:
    """Replace names that are not valid UTF-8, which cannot be printed, by Latin-1 text."""
    return Listing(
        [replace(file, name=_text(file.name), path=_text(file.path)) for file in listing.files],
        {_text(name): reason for name, reason in listing.ignored.items()},
        [_text(name) for name in listing.empty_folders],
    )


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def is_hidden(path: str) -> bool:
    """Return whether a file is hidden, or in a hidden folder or one of the operating system."""
    return any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in path.split("/"))


def files_on_disk(path: Path) -> list[Path]:
    """Return all files of a folder, through links as well, without opening archives; or `path`."""
    if path.is_file():
        return [path]
    walk = _FolderWalk(path, open_archives=False)
    return [path / file.name for file in walk.run().files]


def archive_kind(path: Path) -> str | None:
    """Return "zip" or "tar" by the content of a file, or None if it is no archive."""
    try:
        if zipfile.is_zipfile(path):
            return "zip"
        # Any file of zeros is an empty tar archive, so the suffix counts as well.
        if not path.name.lower().endswith(_TAR_SUFFIXES):
            return None
        return "tar" if tarfile.is_tarfile(path) else None
    except OSError:
        return None
    except _ARCHIVE_ERRORS:
        # A damaged archive, which is reported when its members are listed.
        return "tar"


def _list_archive(path: Path, kind: str, name_prefix: str, path_prefix: str) -> Listing:
    members = _zip_members if kind == "zip" else _tar_members
    listing = Listing()
    seen: set[str] = set()
    try:
        for member, read in members(path):
            member_path = _relative(member)
            if isinstance(read, str):
                listing.ignored[name_prefix + member_path] = read
            elif member_path in seen:
                listing.ignored[name_prefix + member] = "occurs twice in the archive"
            else:
                seen.add(member_path)
                listing.files.append(
                    File(
                        name_prefix + member_path,
                        path_prefix + member_path,
                        read,
                        name_prefix.rstrip("/"),
                    )
                )
    except _ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return listing.sort()


def _relative(member: str) -> str:
    """Return the path of a member below the archive: without drive, root, ``.`` and ``..``."""
    parts = [part for part in re.split(r"[\\/]", member) if part not in ("", ".", "..")]
    if len(parts) > 1 and re.fullmatch(r"[A-Za-z]:", parts[0]):
        parts = parts[1:]
    return "/".join(parts)


def _zip_members(path: Path) -> Iterator[tuple[str, Callable[[int | None], bytes] | str]]:
    archive = zipfile.ZipFile(path)

    def reader(info: zipfile.ZipInfo) -> Callable[[int | None], bytes]:
        def read(count: int | None) -> bytes:
            try:
                with archive.open(info) as member:
                    return member.read(-1 if count is None else count)
            except _ARCHIVE_ERRORS as error:
                raise OSError(str(error)) from error

        return read

    for info in archive.infolist():
        if info.is_dir():
            continue
        # `filename` replaces the separator of the system that reads; `orig_filename` does not.
        name = info.orig_filename.partition("\0")[0]
        if info.flag_bits & _ENCRYPTED:
            yield name, "is encrypted"
        elif info.file_size > _MAX_MEMBER_BYTES:
            yield name, "is larger than 2 GiB"
        else:
            yield name, reader(info)


def _tar_members(path: Path) -> Iterator[tuple[str, Callable[[int | None], bytes] | str]]:
    stream = _uncompressed(path)
    lock = threading.Lock()

    def reader(member: tarfile.TarInfo) -> Callable[[int | None], bytes]:
        def read(count: int | None) -> bytes:
            with lock:
                stream.seek(member.offset_data)
                wanted = member.size if count is None else min(count, member.size)
                data = stream.read(wanted)
            if len(data) < wanted:
                raise OSError("the archive ends in the middle of this file")
            return data

        return read

    with tarfile.open(fileobj=stream, mode="r:") as archive:
        members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in archive:
                members[member.name] = member
            # The archive ends with blocks of zeros; the library stops at damaged headers as well.
            stream.seek(archive.offset)
            end = stream.read(512)
            is_whole = bool(end) and not any(end)
        except tarfile.ReadError:
            if not members:
                raise
            is_whole = False
    # Names by which members are read. Of the links to a hidden member, the first one is read.
    read_as = {
        name: name
        for name, member in members.items()
        if member.isreg() and not is_hidden(_relative(name))
    }
    by_path = {posixpath.normpath(name): member for name, member in members.items()}
    for name, member in members.items():
        target = _link_target(member, by_path)
        if target.isreg() and target is not member and target.name in read_as:
            first = _relative(read_as[target.name])
            yield name, f"is a link to {first}, which is read already"
        elif target.isreg():
            if target is not member:
                read_as[target.name] = name
            yield name, reader(target)
        elif not target.isdir():
            yield name, "is a link to a missing file" if target.issym() else "is not a file"
    if not is_whole:
        yield "(end)", f"the archive is cut off or damaged after {len(members):,} files"


def _link_target(
    member: tarfile.TarInfo, by_path: Mapping[str, tarfile.TarInfo]
) -> tarfile.TarInfo:
    """Return the member that a link leads to, or the last link if its target is missing."""
    for _ in range(10):
        if not (member.islnk() or member.issym()):
            break
        link = member.linkname
        if member.issym():
            link = posixpath.join(posixpath.dirname(member.name), link)
        target = by_path.get(posixpath.normpath(link))
        if target is None:
            break
        member = target
    return member


def _uncompressed(path: Path) -> IO[bytes]:
    """Open a tar archive; a compressed one is decompressed first, to read members in any order."""
    with path.open("rb") as file:
        is_plain = file.read(512)[257:262] == b"ustar"
    if is_plain:
        return path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the source is used
    with tarfile.open(path, "r:*") as archive:
        assert archive.fileobj is not None  # noqa: S101 - open for reading
        archive.fileobj.seek(0)
        shutil.copyfileobj(cast("IO[bytes]", archive.fileobj), copy, 2**20)
    copy.seek(0)
    return copy


class _FolderWalk:
    """Lists a folder. Files that are reached without a link are listed first, links after them."""

    def __init__(self, root: Path, *, open_archives: bool = True) -> None:
        self._root = root
        self._open_archives = open_archives
        self.listing = Listing()
        # (device, inode) of every folder and file, and the name by which it was reached.
        self._folders: dict[tuple[int, int], str] = {}
        self._files: dict[tuple[int, int], str] = {}
        self._links: list[str] = []

    def run(self) -> Listing:
        self._folder("", by_link=False)
        while self._links:
            links, self._links = sorted(self._links), []
            for name in links:
                self._link(name)
        return self.listing.sort()

    def _folder(self, folder: str, *, by_link: bool) -> None:
        try:
            status = (self._root / folder).stat()
            entries = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name)
        except OSError as error:
            self.listing.ignored[folder or "."] = error.strerror or str(error)
            return
        key = (status.st_dev, status.st_ino)
        if key in self._folders:
            first = self._folders[key] or "the folder itself"
            self.listing.ignored[folder] = f"is a link to {first}, which is read already"
            return
        self._folders[key] = folder
        if folder and not entries:
            self.listing.empty_folders.append(folder)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                self._links.append(name)
            elif entry.is_dir():
                self._folder(name, by_link=by_link)
            else:
                self._file(name, by_link=by_link)

    def _link(self, name: str) -> None:
        path = self._root / name
        if path.is_dir():
            self._folder(name, by_link=True)
        else:
            self._file(name, by_link=True)

    def _file(self, name: str, *, by_link: bool) -> None:
        path = self._root / name
        try:
            status = path.stat()
        except OSError:
            self.listing.ignored[name] = "is a link to a missing file"
            return
        if not stat.S_ISREG(status.st_mode):
            self.listing.ignored[name] = "is not a file"
            return
        key = (status.st_dev, status.st_ino)
        # Hard links are files of their own: data sets use them to share storage.
        if by_link and key in self._files:
            self.listing.ignored[name] = f"is a link to {self._files[key]}, which is read already"
            return
        self._files.setdefault(key, name)
        hidden = is_hidden(name)
        may_be_archive = name.lower().endswith((*_TAR_SUFFIXES, ".zip")) and not hidden
        kind = archive_kind(path) if may_be_archive and self._open_archives else None
        if kind is None:
            self.listing.files.append(File(name, name, _file_reader(path)))
            return
        folder = posixpath.dirname(name)
        try:
            inner = _list_archive(path, kind, f"{name}/", f"{folder}/" if folder else "")
        except DataError as error:
            self.listing.ignored[name] = str(error).removeprefix(f"{path} ")
            return
        self.listing.files += inner.files
        self.listing.ignored |= inner.ignored


def _list_folder(folder: Path) -> Listing:
    return _FolderWalk(folder).run()


def _file_reader(path: Path) -> Callable[[int | None], bytes]:
    def read(count: int | None) -> bytes:
        with path.open("rb") as file:
            return file.read(-1 if count is None else count)

    return read
