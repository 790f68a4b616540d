"""The formats of image files: those that can be decoded, and the names of others, for messages.

Names are recognized by the first bytes of a file. No decoder sees the file.
"""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

# Formats that Pillow recognizes but only decodes with an external program, or not at all.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
# Formats by the bytes at the start of a file. "." matches any byte.
_SIGNATURES = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("WebP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("AVIF", rb"....ftyp(avif|avis)"),
    ("HEIC", rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("BMP", rb"BM....\0\0\0\0"),
    ("ICO", rb"\0\0[\x01\x02]\0"),
    ("PSD", rb"8BPS"),
    ("OpenEXR", rb"v/1\x01"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("PPM", rb"P[1-7fF][\s#]"),
    ("DDS", rb"DDS "),
    ("QOI", rb"qoif"),
    ("XCF", rb"gimp xcf"),
    ("ICNS", rb"icns"),
    ("DICOM", rb".{128}DICM"),
    ("FITS", rb"SIMPLE  ="),
    (
        "SVG",
        rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg.*?>\s*)?<svg\b",
    ),
)
# Image formats without a decoder in Pillow.
UNREADABLE = ("SVG", "JPEG XL", "OpenEXR", "Radiance HDR", "XCF", "DICOM")
_PATTERNS = [(name, re.compile(pattern, re.DOTALL)) for name, pattern in _SIGNATURES]
# Files that are often sent or stored in place of an image.
_OTHER_CONTENT = (
    ("a PDF document", rb"%PDF-"),
    ("a PostScript document", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("a video", rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI "),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("an HTML page", rb"\s*<(!doctype\s+)?html"),
    ("a JSON document", rb'\s*[{\[]\s*["{\[\]}]'),
    ("a Git LFS pointer instead of the content", rb"version https://git-lfs"),
)
_OTHER_PATTERNS = [
    (name, re.compile(pattern, re.DOTALL | re.IGNORECASE)) for name, pattern in _OTHER_CONTENT
]
# Enough for every signature, including an SVG that starts with a comment.
_HEAD_BYTES = 1024


def image_format_of(data: bytes) -> str | None:
    """Return the name of the image format that a file starts like, or None."""
    head = data[:_HEAD_BYTES]
    # A HEIF container may state its codec only among the compatible brands.
    if re.match(rb"....ftyp(mif1|msf1)", head, re.DOTALL) and b"avif" in head[16:64]:
        return "AVIF"
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def content_of(data: bytes) -> str | None:
    """Return what a file that is not an image starts like, with an article, or None."""
    head = data[:_HEAD_BYTES]
    return next((name for name, pattern in _OTHER_PATTERNS if pattern.match(head)), None)


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that Pillow and its installed plug-ins can decode, in Pillow's names."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of `readable_formats`, in lower case and with the dot."""
    readable = readable_formats()
    extensions = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in extensions if name in readable)
