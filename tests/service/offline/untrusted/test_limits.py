"""Archives of clients: what is refused, and what is reported for each image."""

import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from service.offline.inputs import InputError, Inputs, UnreadableInput
from service.offline.untrusted.limits import InputLimits, InputsRefused
from tests.support.object_stores import zip_of

LIMITS = InputLimits(files=50, file_bytes=2**20, total_bytes=2**30, ratio=100)


def listed(tmp_path, content, limits=LIMITS, name="photos.zip"):
    path = tmp_path / name
    path.write_bytes(content)
    return Inputs(str(path), label=name, limits=limits)


def test_lists_images_in_order_of_names(tmp_path):
    inputs = listed(tmp_path, zip_of({"b/2.png": b"2", "a.png": b"1", "notes.txt": b"", "b/": b""}))
    assert inputs.names == ("photos/a.png", "photos/b/2.png")
    assert [inputs.read(i) for i in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({f"{i}.png": b"" for i in range(51)}, "expected at most 50 files"),
        ({"a.png": b"", "more.zip": b""}, "archives within an archive are not read: 'more.zip'"),
        ({"a/x.png": b"1", "a\\x.png": b"2"}, "several files with the name 'a/x.png'"),
        ({"a.png": bytes(80 * 2**20)}, "would decompress to"),
    ],
)
def test_archives_are_refused(tmp_path, files, message):
    with pytest.raises(InputsRefused, match=message):
        listed(tmp_path, zip_of(files))


def test_archive_of_huge_images_is_refused_by_the_sum(tmp_path):
    limits = InputLimits(total_bytes=30 * 2**20, ratio=10**6)
    files = {f"{i}.png": bytes(16 * 2**20) for i in range(2)}
    with pytest.raises(InputsRefused, match=r"expected at most 31\.5 MB|expected at most 30"):
        listed(tmp_path, zip_of(files), limits)


def test_huge_directory_is_refused_before_it_is_read(tmp_path):
    content = zip_of({"a.png": b"1", f"{'x' * 60_000}.txt": b"", f"{'y' * 60_000}.txt": b""})
    with pytest.raises(InputsRefused, match=r"the directory of the archive or a header"):
        listed(tmp_path, content)


def test_directory_that_lies_about_sizes_yields_no_large_image(tmp_path):
    content = zip_of({"a.png": bytes(2**20)})
    # The size after decompression, in the directory and before the data.
    lying = content.replace(struct.pack("<I", 2**20), struct.pack("<I", 100))
    assert lying != content
    inputs = listed(tmp_path, lying)
    with pytest.raises(UnreadableInput):
        inputs.read(0)


def test_large_encrypted_and_linked_images_are_reported_one_by_one(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ok.png", b"content")
        archive.writestr("large.png", bytes(2**20 + 1))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../up.png", b"above")
        archive.writestr("/etc/absolute.png", b"absolute")
    inputs = listed(tmp_path, out.getvalue())
    contents = {}
    for i, name in enumerate(inputs.names):
        try:
            contents[name] = inputs.read(i)
        except UnreadableInput as error:
            contents[name] = str(error)
    # A link is the text of its target; nothing is extracted.
    assert contents["photos/link.png"] == b"/etc/passwd"
    assert contents["photos/large.png"].startswith("it is larger than")
    assert contents["photos/ok.png"] == b"content"
    assert not any(".." in stem or stem.startswith("/") for stem in inputs.stems())


def test_what_is_no_archive_is_named_without_its_folder(tmp_path):
    with pytest.raises(InputError, match=r"^photos\.zip cannot be read: File is not a zip file$"):
        listed(tmp_path, b"no archive")
    with pytest.raises(InputError, match=r"^photos\.tar cannot be read"):
        listed(tmp_path, b"no archive", name="photos.tar")
    with pytest.raises(InputError, match=r"^photos\.zip contains no images"):
        listed(tmp_path, zip_of({"a.txt": b""}))


def test_mask_of_an_archive_matches_by_the_name_in_it(tmp_path):
    images = listed(tmp_path, zip_of({"a/1.png": b"1", "a/2.webp": b"2"}))
    masks = listed(tmp_path, zip_of({"a/2.png": b"m2", "a/1.png": b"m1"}), name="masks.zip")
    numbers = [masks.number_matching(images, i) for i in range(2)]
    assert [masks.read(number) for number in numbers] == [b"m1", b"m2"]
    other = listed(tmp_path, zip_of({"b/1.png": b"x"}), name="others.zip")
    assert other.number_matching(images, 0) is None


def test_member_that_decompresses_to_more_than_its_size_takes_no_memory(tmp_path):
    content = zip_of({"a.png": bytes(60 * 2**20)})
    lying = content.replace(struct.pack("<I", 60 * 2**20), struct.pack("<I", 100))
    inputs = listed(tmp_path, lying)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableInput, match="CRC"):
            inputs.read(0)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str)
def test_members_of_unbounded_compression_are_reported(tmp_path, method):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a.png", b"1")
    with pytest.raises(UnreadableInput, match="expected deflate"):
        listed(tmp_path, out.getvalue()).read(0)


def header(kind, size):
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT) + b"y" * size


def test_large_header_of_a_tar_file_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(InputsRefused, match="a header of a file has more than"):
        listed(tmp_path, header(tarfile.GNUTYPE_LONGNAME, 2**20), name="photos.tar")


def test_damaged_archives_are_refused(tmp_path):
    chain = header(tarfile.GNUTYPE_LONGNAME, 512) * 3000
    with pytest.raises(InputError, match=r"photos\.tar cannot be read: it is damaged"):
        listed(tmp_path, chain, name="photos.tar")
    nameless = bytearray(zip_of({"a.png": b"1"}))
    # The length of the name in the directory, and that of the comment, which takes it.
    at = nameless.index(b"PK\x01\x02")
    nameless[at + 28 : at + 34] = struct.pack("<HHH", 0, 0, 5)
    with pytest.raises(InputError, match=r"photos\.zip cannot be read: it is damaged"):
        listed(tmp_path, bytes(nameless))
