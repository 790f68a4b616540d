"""Archives are extracted without leaving their folder and without expanding beyond a limit."""

import io
import random
import stat
import tarfile
import zipfile

import pytest

from service.pull.archives import ArchiveError, extract, member_names

LIMIT = 10**6


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def write_zip(path, members, mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def write_tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/hostname"
            archive.addfile(info, io.BytesIO(content))
    return path


WRITERS = {"a.zip": write_zip, "a.tar.gz": write_tar}


@pytest.mark.parametrize("name", WRITERS)
def test_extracts_files_in_folders(tmp_path, target, name):
    path = WRITERS[name](tmp_path / name, {"m/1/model.json": b"{}", "m/1/g.onnx": b"graph"})
    assert member_names(path) == ["m/1/model.json", "m/1/g.onnx"]
    extract(path, target, LIMIT)
    assert (target / "m" / "1" / "g.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("member", ["../evil", "/evil", "m/../../evil", "m\\..\\evil"])
def test_refuses_names_that_lead_out(tmp_path, target, name, member):
    path = WRITERS[name](tmp_path / name, {"first": b"1", member: b"x"})
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        extract(path, target, LIMIT)
    assert not list(target.iterdir())
    assert not (tmp_path / "evil").exists()


def test_refuses_links(tmp_path, target):
    linked = write_zip(tmp_path / "a.zip", {"link": b"/etc/hostname"}, stat.S_IFLNK | 0o777)
    with pytest.raises(ArchiveError, match="is a link"):
        extract(linked, target, LIMIT)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        path = write_tar(tmp_path / "a.tar.gz", {"link": b""}, kind)
        with pytest.raises(ArchiveError, match="is a link or a device"):
            extract(path, target, LIMIT)
    assert not list(target.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_refuses_archives_that_expand_beyond_the_limit(tmp_path, target, name):
    path = WRITERS[name](tmp_path / name, {"a": bytes(LIMIT // 2), "b": bytes(LIMIT)})
    assert path.stat().st_size < LIMIT / 100
    with pytest.raises(ArchiveError, match="expands to 1,500,000 bytes"):
        extract(path, target, LIMIT)
    assert not list(target.iterdir())


def test_damaged_archives_are_one_clear_error(tmp_path, target):
    for name, write in WRITERS.items():
        path = write(tmp_path / name, {"a": bytes(range(256)) * 100})
        content = bytearray(path.read_bytes())
        content[len(content) // 2 - 20 : len(content) // 2 + 20] = bytes(40)
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match="damaged"):
            extract(path, target, LIMIT)


def test_other_files_have_no_members(tmp_path):
    (tmp_path / "g.pkl").write_bytes(b"\x80\x04N.")
    assert member_names(tmp_path / "g.pkl") == []


def test_refuses_a_tar_with_too_many_members_before_it_reads_them_all(tmp_path, target):
    members = {f"{number}": b"" for number in range(10_001)}
    path = write_tar(tmp_path / "a.tar.gz", members)
    for read in (member_names, lambda each: extract(each, target, LIMIT)):
        with pytest.raises(ArchiveError, match="more than 10,000 files"):
            read(path)
    assert not list(target.iterdir())


def test_damage_within_bzip2_is_reported_as_damage(tmp_path, target):
    path = tmp_path / "a.tar.bz2"
    noise = random.Random(0).randbytes(300_000)
    with tarfile.open(path, "w:bz2", compresslevel=1) as archive:
        for name in "abcd":
            info = tarfile.TarInfo(name)
            info.size = len(noise)
            archive.addfile(info, io.BytesIO(noise))
    content = bytearray(path.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    path.write_bytes(content)
    for read in (member_names, lambda each: extract(each, target, LIMIT)):
        with pytest.raises(ArchiveError, match="is damaged"):
            read(path)


@pytest.mark.parametrize(
    ("record", "offset"),
    [(b"PK\1\2", 10), (b"PK\1\2", 16), (b"PK\1\2", 42), (b"PK\5\6", 12), (b"PK\5\6", 16)],
)
def test_damage_of_a_zip_directory_is_reported_as_damage(tmp_path, target, record, offset):
    path = write_zip(tmp_path / "a.zip", {"a": b"1" * 1000, "b": b"2" * 1000})
    content = bytearray(path.read_bytes())
    entry = content.rindex(record)
    content[entry + offset : entry + offset + 4] = b"\xff\xff\xff\xfe"
    path.write_bytes(content)
    with pytest.raises(ArchiveError):
        extract(path, target, LIMIT)
