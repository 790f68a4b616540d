"""Invalid, oversized and malicious files, as a public upload endpoint receives them."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def _noise(width=40, height=30, mode="RGB") -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def _file(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, data: bytes, *, depth=8, color=2, more: bytes = b"") -> bytes:
    """A PNG with an arbitrary header, and with the compressed `data` and the chunks `more`."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + more
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def corpus() -> dict[str, bytes]:
    """Return the files by name. The service must reject most of them, and must not fail on any."""
    png, jpeg = _file(_noise(), "PNG"), _file(_noise(), "JPEG")
    webp, gif, tiff = _file(_noise(), "WEBP"), _file(_noise(), "GIF"), _file(_noise(), "TIFF")
    frames = [_noise(mode="P"), _noise().rotate(90).convert("P")]
    zeros = zlib.compress(bytes(2**24), 9)
    text = PngInfo()
    text.add_text("ganymede", "x" * 2**20, zip=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(10**6))
    deep = np.random.default_rng(0).integers(0, 65535, (30, 40), np.uint16)
    return {
        "empty": b"",
        "one-byte": b"\x89",
        "text": b"this is not an image",
        "html": b"<!doctype html><script>alert(1)</script>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "xml-bomb": b'<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
        "zip": archive.getvalue(),
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>",
        "elf": b"\x7fELF" + bytes(60),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n",
        "random": np.random.default_rng(1).bytes(4096),
        **{f"{n}-cut-{k}": f[: len(f) // k] for n, f in
           {"png": png, "jpeg": jpeg, "webp": webp, "gif": gif, "tiff": tiff}.items()
           for k in (2, 8)},
        "png-header-only": png[:8],
        "png-flipped-bits": bytes(b ^ 0x55 if 60 < i < 90 else b for i, b in enumerate(png)),
        "png-no-data": png_of(40, 30, b""),
        "png-bad-zlib": png_of(40, 30, b"not deflated at all"),
        "png-zero-sized": png_of(0, 0, zlib.compress(b"")),
        "png-no-width": png_of(0, 30, zlib.compress(b"")),
        "png-bomb": png_of(50_000, 50_000, zeros),
        "png-1-bit-bomb": png_of(2**31 - 1, 2**31 - 1, zeros, depth=1, color=0),
        "png-tall-bomb": png_of(1, 2**31 - 1, zeros),
        "png-odd-depth": png_of(40, 30, zlib.compress(bytes(4000)), depth=3),
        "png-text-bomb": _file(_noise(), "PNG", pnginfo=text),
        "png-giant-chunk": png[:8] + struct.pack(">I", 2**31 - 1) + b"tEXt" + bytes(100),
        "png-icc-rubbish": png_of(
            8, 8, zlib.compress(bytes(8 * 25)), more=_chunk(b"iCCP", b"x\0\0" + zeros[:1000])
        ),
        "png-16-bit": _file(Image.fromarray(deep), "PNG"),
        "png-palette": _file(_noise(mode="P"), "PNG"),
        "png-1-bit": _file(_noise(mode="1"), "PNG"),
        "png-alpha": _file(_noise(mode="RGBA"), "PNG"),
        "png-animated": _file(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "jpeg-cmyk": _file(_noise(mode="CMYK"), "JPEG"),
        "jpeg-giant-header": b"\xff\xd8" + b"\xff\xe1\xff\xff" + bytes(65_533) + jpeg[2:],
        "jpeg-header-too-large": jpeg.replace(
            b"\x00\x1e\x00\x28", b"\xff\xff\xff\xff", 1
        ),
        "jpeg-rubbish-exif": _file(_noise(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 500),
        "webp-animated": _file(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "webp-empty-riff": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        "gif-animated": _file(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "gif-zero-sized": b"GIF89a" + bytes(7) + b"\x3b",
        "tiff-loop": b"II*\0\x08\0\0\0\x00\x00\x08\0\0\0",
        "tiff-float": _file(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "bmp-header-too-large": b"BM"
        + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 2**30, -(2**30), 1, 24),
        "ico": _file(_noise(32, 32), "ICO"),
        "ppm-bomb": b"P6 99999 99999 255\n" + bytes(100),
        "pgm-text-bomb": b"P2 " + b"9" * 5000 + b" 1 255\n",
    }  # fmt: skip
