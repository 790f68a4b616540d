"""The mark of generated images: an XMP packet with IPTC's digital source type.

Every image and video of the service says in a standard, machine-readable form that a model made it,
in the property `Iptc4xmpExt:DigitalSourceType` of the IPTC Photo Metadata Standard. The packet
depends on nothing but the source type, so that equal requests give equal bytes. XMP is ISO 16684-1;
part 3 of Adobe's specification defines where each file format holds it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any
from xml.etree import ElementTree

from PIL.PngImagePlugin import PngInfo

from service.runtime.images import png

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PROPERTY = f"{{{_IPTC}}}DigitalSourceType"
# The packet can be rewritten in no file format without writing the file again: "r" is read-only.
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
    f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" '
    'Iptc4xmpExt:DigitalSourceType="{uri}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
# Packets of other software may be of any size.
_MAX_PACKET = 2**20

_PNG_KEYWORD = b"XML:com.adobe.xmp"
_JPEG_NAMESPACE = b"http://ns.adobe.com/xap/1.0/\0"
_GIF_APPLICATION = b"XMP DataXMP"
# The packet is not divided into sub-blocks. A reader that expects them continues at some byte of
# the packet and lands in these 258 bytes, each of which leads to the terminator at their end.
_GIF_MAGIC_TRAILER = bytes([1, *range(255, -1, -1), 0])
_MP4_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class SourceType(StrEnum):
    """How an image came to be: a term of IPTC's vocabulary of digital source types."""

    # Every pixel was generated.
    GENERATED = "trainedAlgorithmicMedia"
    # A model changed or completed an input image.
    COMPOSITE = "compositeWithTrainedAlgorithmicMedia"

    @property
    def uri(self) -> str:
        """The URI of the term."""
        return _VOCABULARY + self.value

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> SourceType:
        """Return the source type of an image with this provenance.

        An output computed from the pixels of an input image or film is a composite. An image that
        is generated from a latent is not, wherever the latent comes from: an inversion keeps no
        pixel of its input. Neither is the output for an input that was generated from a latent.
        """
        has_input = not _INPUTS.isdisjoint(provenance)
        return cls.COMPOSITE if has_input and _GENERATED_INPUT not in provenance else cls.GENERATED

    @classmethod
    def of_sheet(cls, *, shows_inputs: bool) -> SourceType:
        """Return the source type of a sheet of generated images, which may have inputs beside."""
        return cls.COMPOSITE if shows_inputs else cls.GENERATED


# Fields of the provenance: of image-to-image models, of films, and of comparisons with an input.
_INPUTS = frozenset({"input", "film", "compared"})
# The parameters of an input that another model generated.
_GENERATED_INPUT = "source"


@cache
def packet(source_type: SourceType | None) -> bytes:
    """Return the XMP packet in UTF-8, or nothing for a file without a mark.

    JPEG and WebP store the packet as it is; the functions below return it as part of other formats.
    """
    if source_type is None:
        return b""
    return _PACKET.format(uri=source_type.uri).encode()


@cache
def png_chunk(source_type: SourceType | None) -> bytes:
    """Return the packet as a chunk of a PNG: international text, not compressed."""
    if source_type is None:
        return b""
    # Not compressed, without language and translated keyword.
    return png.chunk(b"iTXt", _PNG_KEYWORD + b"\0\0\0\0\0" + packet(source_type))


@cache
def wave_chunk(source_type: SourceType) -> bytes:
    """Return the packet as a chunk of a WAV file."""
    body = packet(source_type)
    return struct.pack("<4sI", b"_PMX", len(body)) + body + bytes(len(body) % 2)


@cache
def gif_extension(source_type: SourceType | None) -> bytes:
    """Return the packet as an application extension of a GIF89a."""
    if source_type is None:
        return b""
    return b"\x21\xff\x0b" + _GIF_APPLICATION + packet(source_type) + _GIF_MAGIC_TRAILER


@cache
def mp4_box(source_type: SourceType | None) -> bytes:
    """Return the packet as a box of the highest level of an MP4; it may be the last one."""
    if source_type is None:
        return b""
    body = b"uuid" + _MP4_UUID + packet(source_type)
    return struct.pack(">I", 4 + len(body)) + body


def save_options(kind: str, source_type: SourceType) -> dict[str, Any]:
    """Return the options of Pillow's `save` that add the packet to a PNG, JPEG or WebP file."""
    if kind == "PNG":
        texts = PngInfo()
        texts.add_itxt(_PNG_KEYWORD.decode(), packet(source_type).decode())
        return {"pnginfo": texts}
    return {"xmp": packet(source_type)}


def read_source_type(content: bytes) -> str | None:
    """Return the URI of the digital source type in a PNG, JPEG, WebP, GIF, MP4 or WAV file.

    None if the file has no valid XMP with this property, is damaged, or has another format. The
    value may be any text: other software writes the property, too. Pixels are not decoded.
    """
    found = read_packet(content)
    return None if found is None else _property(found)


def read_packet(content: bytes) -> bytes | None:
    """Return the XMP packet of a file, or None, as `read_source_type` does."""
    for signature, find in _READERS:
        if content.startswith(signature, 4 if signature == b"ftyp" else 0):
            try:
                return next(find(content), None)
            except (struct.error, IndexError):
                return None
    return None


def _property(xmp: bytes) -> str | None:
    """Return the property of a packet, written as an attribute, a text or a resource."""
    text = xmp.strip(b"\0 \t\r\n")
    # XMP has no document type, and thereby no entities. It is UTF-8: with a zero byte it would be
    # UTF-16, in which a document type would not be noticed.
    if len(xmp) > _MAX_PACKET or b"<!DOCTYPE" in text or b"\0" in text:
        return None
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no entities
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    for element in root.iter():
        if (value := element.get(_PROPERTY)) is not None:
            return value.strip()
        if element.tag == _PROPERTY:
            return (element.get(f"{{{_RDF}}}resource") or element.text or "").strip() or None
    return None


def _in_png(content: bytes) -> Iterator[bytes]:
    for kind, body in png.chunks(content):
        if kind == b"iTXt" and body.startswith(_PNG_KEYWORD + b"\0\0"):
            # After the flag and method of compression: language and translated keyword.
            yield body[len(_PNG_KEYWORD) + 3 :].split(b"\0", 2)[2]


def _in_jpeg(content: bytes) -> Iterator[bytes]:
    start_of_scan, app1 = 0xDA, 0xE1
    at = 2
    while content[at] == 0xFF and (marker := content[at + 1]) != start_of_scan:
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        body = content[at + 4 : at + 2 + length]
        if marker == app1 and body.startswith(_JPEG_NAMESPACE):
            yield body[len(_JPEG_NAMESPACE) :]
        at += 2 + length


def _in_riff(content: bytes) -> Iterator[bytes]:
    """Find the packet in WebP, and in WAV."""
    at = 12
    while at < len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        if kind in (b"XMP ", b"_PMX"):
            yield content[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _in_gif(content: bytes) -> Iterator[bytes]:
    extension, image, application = 0x21, 0x2C, 0xFF
    at = 13 + _palette_bytes(content[10])
    while content[at] in (extension, image):
        if content[at] == image:
            at += 11 + _palette_bytes(content[at + 9])
        else:
            is_xmp = content[at + 1] == application and content.startswith(_GIF_APPLICATION, at + 3)
            at += 2
            if is_xmp:
                start = at + 1 + len(_GIF_APPLICATION)
                end = content.find(_GIF_MAGIC_TRAILER, start)
                if end < 0:
                    return
                yield content[start:end]
                at = end + len(_GIF_MAGIC_TRAILER)
                continue
        while content[at]:
            at += content[at] + 1
        at += 1


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 0x07) + 1) if flags & 0x80 else 0


def _in_mp4(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, at + 8)
            header = 16
        end = at + size if size else len(content)
        if kind == b"uuid" and content.startswith(_MP4_UUID, at + header):
            yield content[at + header + len(_MP4_UUID) : end]
        if end < at + header:
            return
        at = end


_READERS = (
    (png.SIGNATURE, _in_png),
    (b"\xff\xd8\xff", _in_jpeg),
    (b"RIFF", _in_riff),
    (b"GIF8", _in_gif),
    (b"ftyp", _in_mp4),
)
