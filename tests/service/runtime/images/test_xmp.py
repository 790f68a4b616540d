"""The mark of generated images, read by ExifTool, by Pillow and by the service."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from service.runtime.images import png
from service.runtime.images.animation import WRITERS, AnimationSpec, write
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.images.xmp import (
    SourceType,
    mp4_box,
    packet,
    read_packet,
    read_source_type,
    save_options,
)
from tests.support.exiftool import source_types_of

PROVENANCE = {
    SourceType.GENERATED: {"model": "m", "seed": 7},
    SourceType.COMPOSITE: {"model": "m", "task": "upscale", "input": "sha256:ab"},
}
TERMS = {
    SourceType.GENERATED: "trainedAlgorithmicMedia",
    SourceType.COMPOSITE: "compositeWithTrainedAlgorithmicMedia",
}
EXTENSIONS = {"png": "png", "webp": "webp", "gif": "gif"}


def uri(source_type: SourceType) -> str:
    return f"http://cv.iptc.org/newscodes/digitalsourcetype/{TERMS[source_type]}"


def noise(channels: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (side, side, channels), np.uint8)


def animation(kind: str, channels: int, source_type: SourceType | None) -> bytes:
    frames = [noise(channels), 255 - noise(channels)]
    spec = AnimationSpec(2, 16, 16, channels, 5, {"a": 1}, lambda _: {}, source_type=source_type)
    return write(WRITERS[kind](spec), frames)


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[SourceType, bytes]]:
    """Files of every format with every number of channels and every source type, by name."""
    found = {}
    for source_type, channels in itertools.product(SourceType, (1, 3, 4)):
        name = f"{source_type.name}-{channels}"
        for kind in ImageFormat:
            file = encode(noise(channels), kind, PROVENANCE[source_type])
            found[f"{name}.{kind.extension}"] = (source_type, file)
        for kind, extension in EXTENSIONS.items():
            file = animation(kind, channels, source_type)
            found[f"{name}-animated.{extension}"] = (source_type, file)
    return found


def test_exiftool_reads_every_format(files, tmp_path):
    found = source_types_of({name: file for name, (_, file) in files.items()}, tmp_path)
    assert found == {name: uri(source_type) for name, (source_type, _) in files.items()}


def test_reader_and_pillow_find_the_packet(files):
    for name, (source_type, file) in files.items():
        assert read_source_type(file) == uri(source_type) == source_type.uri, name
        assert read_packet(file) == packet(source_type), name
        with Image.open(io.BytesIO(file)) as image:
            image.load()
            # Pillow does not read the XMP of GIF files.
            if image.format != "GIF":
                xmp = image.info["xmp"]
                assert (xmp.encode() if isinstance(xmp, str) else xmp) == packet(source_type), name


def test_webp_flags_name_the_metadata(files):
    for name, (_, file) in files.items():
        if name.endswith(".webp"):
            assert file[12:16] == b"VP8X"
            assert file[20] & 0x0C == 0x0C, name
            assert struct.unpack_from("<I", file, 4)[0] == len(file) - 8, name


def test_jpeg_keeps_exif_before_xmp(files):
    for name, (_, file) in files.items():
        if name.endswith(".jpg"):
            assert 0 < file.find(b"Exif\0\0") < file.find(b"http://ns.adobe.com/xap/1.0/\0")


def test_packet_is_constant_and_small():
    for source_type in SourceType:
        assert packet(source_type) == packet(source_type)
        assert len(packet(source_type)) < 420
        image = noise(3)
        file = encode(image, ImageFormat.PNG, PROVENANCE[source_type])
        assert file == encode(image.copy(), ImageFormat.PNG, dict(PROVENANCE[source_type]))


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({}, SourceType.GENERATED),
        ({"seed": 7, "directions": {"smile": 1}}, SourceType.GENERATED),
        # An inversion keeps no pixel of its input.
        ({"w": "AAAA", "inversion": {"input": "sha256:ab"}}, SourceType.GENERATED),
        ({"task": "inpaint", "input": "sha256:ab", "mask": "sha256:cd"}, SourceType.COMPOSITE),
        ({"film": "holiday.mp4"}, SourceType.COMPOSITE),
        ({"compared": "photograph.jpg"}, SourceType.COMPOSITE),
        # The input was generated, too.
        ({"input": "sha256:ab", "source": {"model": "m", "seed": 7}}, SourceType.GENERATED),
    ],
)
def test_source_type_follows_from_provenance(provenance, expected):
    assert SourceType.of(provenance) is expected
    file = encode(noise(3), ImageFormat.WEBP, provenance)
    assert read_source_type(file) == uri(expected)


def test_files_of_earlier_versions_differ_only_in_the_mark():
    image, provenance = noise(1), PROVENANCE[SourceType.GENERATED]
    old = encode(image, ImageFormat.PNG, provenance, marked=False)
    assert read_source_type(old) is None
    new = encode(image, ImageFormat.PNG, provenance)
    kept = [part for part in png.chunks(new) if part[0] != b"iTXt"]
    assert list(png.chunks(old)) == kept
    assert read_source_type(encode(image, ImageFormat.JPEG, provenance, marked=False)) is None
    for kind in EXTENSIONS:
        file = animation(kind, 3, None)
        assert read_packet(file) is None
        assert b"xpacket" not in file
        assert len(file) < len(animation(kind, 3, SourceType.GENERATED))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_pillow_writes_the_mark(kind):
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, kind, **save_options(kind, SourceType.COMPOSITE))
    assert read_source_type(out.getvalue()) == uri(SourceType.COMPOSITE)


def with_xmp(xmp: bytes) -> bytes:
    """Return a JPEG of other software with this packet."""
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG", xmp=xmp)
    return out.getvalue()


DESCRIPTION = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'rdf:about="" xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{}</rdf:RDF>'
)


@pytest.mark.parametrize(
    ("property_", "expected"),
    [
        ("><ext:DigitalSourceType>urn:a</ext:DigitalSourceType></rdf:Description>", "urn:a"),
        ('><ext:DigitalSourceType rdf:resource="urn:a"/></rdf:Description>', "urn:a"),
        (' ext:DigitalSourceType="urn:a"/>', "urn:a"),
        ("/>", None),
        ("><ext:DigitalSourceType/></rdf:Description>", None),
        ("><ext:DigitalSourceType>", None),
    ],
)
def test_reads_all_forms_of_the_property(property_, expected):
    xmp = DESCRIPTION.format(property_).encode()
    assert read_source_type(with_xmp(xmp)) == expected
    wrapped = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>\n' + xmp + b" " * 2000
    assert read_source_type(with_xmp(wrapped + b'\n<?xpacket end="w"?>')) == expected


def test_refuses_document_types_and_huge_packets():
    xmp = DESCRIPTION.format(' ext:DigitalSourceType="urn:a"/>').encode()
    entities = b'<!DOCTYPE x [<!ENTITY a "urn:b">]>'
    assert read_source_type(with_xmp(entities + xmp)) is None
    body = b"uuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + b" " * 2**21 + xmp
    huge = struct.pack(">I", 4 + len(body)) + body
    assert read_source_type(b"\0\0\0\x08ftyp" + huge) is None


def test_damaged_files_have_no_mark_and_raise_nothing(files):
    video = b"\0\0\0\x10ftypisom\0\0\0\0" + mp4_box(SourceType.GENERATED)
    assert read_source_type(video) == uri(SourceType.GENERATED)
    rng = np.random.default_rng(0)
    whole = [file for name, (_, file) in files.items() if "-3" in name]
    for file in [video, *whole]:
        for length in range(0, min(len(file), 900), 7):
            read_source_type(file[:length])
        for _ in range(200):
            damaged = bytearray(file)
            for at in rng.integers(0, min(len(file), 900), 3):
                damaged[at] = rng.integers(256)
            read_source_type(bytes(damaged))
    for content in (b"", b"GIF89a", b"\xff\xd8\xff", b"BM" + bytes(50), bytes(4) + b"ftyp"):
        assert read_source_type(content) is None
