import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from training.data.sources import DataError
from training.data.sources.containers import list_files

FILES = {"a/1.png": b"one", "a/2.png": b"two", "b/3.txt": b"three"}


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def contents(listing):
    return {file.path: file.read(None) for file in listing.files}


@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        write_zip,
        write_tar,
        lambda path, files: write_tar(path.with_suffix(".tar.gz"), files, "w:gz"),
        lambda path, files: write_tar(path.with_suffix(".tar.xz"), files, "w:xz"),
        lambda path, files: write_tar(path.with_suffix(".tbz2"), files, "w:bz2"),
    ],
    ids=["folder", "zip", "tar", "gz", "xz", "bz2"],
)
def test_lists_and_reads_files(tmp_path, write):
    listing = list_files(write(tmp_path / "data.tar", FILES))
    assert contents(listing) == FILES
    assert [file.path for file in listing.files] == sorted(FILES)
    assert listing.files[0].read(2) == b"on"
    assert listing.ignored == {}


def test_archives_in_a_folder_are_read_together(tmp_path):
    write_tar(tmp_path / "shard-0.tar", {"cat/1.png": b"1"})
    write_tar(tmp_path / "shard-1.tar", {"cat/2.png": b"2"})
    (tmp_path / "train").mkdir()
    write_zip(tmp_path / "train" / "x.zip", {"dog/3.png": b"3"})
    listing = list_files(tmp_path)
    assert contents(listing) == {"cat/1.png": b"1", "cat/2.png": b"2", "train/dog/3.png": b"3"}
    assert [file.name for file in listing.files] == [
        "shard-0.tar/cat/1.png",
        "shard-1.tar/cat/2.png",
        "train/x.zip/dog/3.png",
    ]


def test_damaged_archive_in_a_folder_is_ignored(tmp_path):
    raw = write_tar(tmp_path / "a.tar.gz", FILES, "w:gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "1.png").write_bytes(b"1")
    listing = list_files(tmp_path)
    assert [file.path for file in listing.files] == ["1.png"]
    assert "damaged" in listing.ignored["a.tar.gz"]


def test_truncated_tar_member_raises_when_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.png": b"x" * 200_000})
    listing = list_files(path)
    os.truncate(path, 100_000)
    with pytest.raises(OSError, match="ends in the middle"):
        listing.files[0].read(None)


def test_zip_names_with_backslashes(tmp_path):
    assert set(contents(list_files(write_zip(tmp_path / "a.zip", {"cats\\1.png": b"1"})))) == {
        "cats/1.png"
    }


def test_links_to_folders_and_files_are_followed(tmp_path):
    store = write_folder(tmp_path / "store", {"cats/1.png": b"1", "dogs/2.png": b"2"})
    data = tmp_path / "data"
    data.mkdir()
    (data / "cats").symlink_to(store / "cats")
    (data / "dogs").symlink_to("../store/dogs")
    (data / "x.png").symlink_to(store / "cats" / "1.png")
    listing = list_files(data)
    assert contents(listing) == {"cats/1.png": b"1", "dogs/2.png": b"2"}
    assert listing.ignored == {"x.png": "is a link to cats/1.png, which is read already"}


def test_link_cycles_end(tmp_path):
    write_folder(tmp_path, {"a/1.png": b"1"})
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    listing = list_files(tmp_path)
    assert set(contents(listing)) == {"a/1.png"}
    assert listing.ignored["a/loop"] == "is a link to the folder itself, which is read already"
    assert listing.ignored["self"] == "is a link to a missing file"


def test_what_is_not_a_file_is_ignored(tmp_path):
    write_folder(tmp_path, {"1.png": b"1"})
    (tmp_path / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty").mkdir()
    listing = list_files(tmp_path)
    assert set(contents(listing)) == {"1.png"}
    assert listing.ignored == {
        "dangling.png": "is a link to a missing file",
        "pipe.png": "is not a file",
    }
    assert listing.empty_folders == ["empty"]


def test_hard_links_are_separate_files(tmp_path):
    write_folder(tmp_path, {"a/1.png": b"1", "b/x.png": b"x"})
    os.link(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png")
    assert set(contents(list_files(tmp_path))) == {"a/1.png", "b/1.png", "b/x.png"}


def test_links_in_tar_archives(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in [
            ("a/1.png", tarfile.REGTYPE, ""),
            ("a/2.png", tarfile.LNKTYPE, "a/1.png"),
            ("b/3.png", tarfile.SYMTYPE, "../a/1.png"),
            ("b/4.png", tarfile.SYMTYPE, "nowhere"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"one") if info.size else None)
    listing = list_files(path)
    assert contents(listing) == {"a/1.png": b"one"}
    assert listing.ignored == {
        "a/2.png": "is a link to a/1.png, which is read already",
        "b/3.png": "is a link to a/1.png, which is read already",
        "b/4.png": "is a link to a missing file",
    }


def test_links_to_hidden_members_of_tar_archives_are_read_once(tmp_path):
    path = write_tar(tmp_path / "a.tar", {".store/1": b"one"})
    with tarfile.open(path, "a") as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, ".store/1"
            archive.addfile(info)
    listing = list_files(path)
    assert contents(listing) == {".store/1": b"one", "a.png": b"one"}
    assert listing.ignored == {"b.png": "is a link to a.png, which is read already"}


def test_rejects_files_that_are_no_archives(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor a ZIP or tar archive"):
        list_files(tmp_path / "x")


@pytest.mark.parametrize(("size", "count"), [(1600, 2), (1300, 1), (1024, 1), (700, 1)])
def test_cut_off_tar_is_named(tmp_path, size, count):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 100
            archive.addfile(info, io.BytesIO(bytes(range(100))))
    whole = list_files(tmp_path / "x.tar")
    assert (len(whole.files), whole.ignored) == (3, {})
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "x.tar").read_bytes()[:size])
    reason = f"the archive is cut off or damaged after {count:,} files"
    assert list(list_files(cut).ignored.values()) == [reason]


def test_names_in_archives_stay_below_it(tmp_path):
    names = ["/abs/1.png", "../up/2.png", "C:\\x\\3.png", "./a/./4.png", "a//5.png"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    paths = [file.path for file in list_files(tmp_path / "x.zip").files]
    assert paths == ["a/4.png", "a/5.png", "abs/1.png", "up/2.png", "x/3.png"]


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    path = bytes(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(path)).write_bytes(b"content")
    (file,) = list_files(tmp_path).files
    assert file.name == "caf\xe9.png"
    assert file.read(None) == b"content"
