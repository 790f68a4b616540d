"""A hundred image files of every mode, size and kind that the decoder supports.

The content of each is known, so that the decoded pixels can be compared with it. The files are
deterministic.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

COUNT = 100
_T = Image.Transpose
# How the pixels of an upright image are stored for each EXIF orientation.
_STORED = {
    2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE,
    6: _T.ROTATE_90, 7: _T.TRANSVERSE, 8: _T.ROTATE_270,
}  # fmt: skip
# The seven passes of interlaced PNG: first pixel and spacing (x, y, dx, dy).
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
_SMALL = ((1, 1), (7, 1), (1, 13), (97, 61), (640, 480))


@dataclass(frozen=True)
class MixedImage:
    """A file and its content: `pixels` ``[H, W, 3]``, upright and in sRGB, and its alpha.

    `tolerance` is the allowed mean difference in levels: 0 for lossless files.
    """

    name: str
    data: bytes = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    alpha: np.ndarray | None = field(default=None, repr=False)
    tolerance: float = 0
    animated: bool = False


def gradient(width: int, height: int) -> np.ndarray:
    """A smooth image ``[height, width, 3]`` without symmetry."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y / max(height - 1, 1), x / max(width - 1, 1)
    red, green = 40 + 180 * x, 220 - 150 * y
    blue = 120 + 90 * np.sin(5 * x + 3 * y)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def alpha_ramp(width: int, height: int) -> np.ndarray:
    """Alpha ``[height, width]`` without 0, because some files drop the color of such pixels."""
    y, x = np.mgrid[:height, :width]
    return (40 + (7 * x + 3 * y) % 216).astype(np.uint8)


def linear_profile() -> bytes:
    """An ICC profile with the primaries of sRGB and a linear transfer curve."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (tags,) = struct.unpack(">I", profile[128:132])
    for at in range(132, 132 + 12 * tags, 12):
        name, offset, _ = struct.unpack(">4sII", profile[at : at + 12])
        if name in {b"rTRC", b"gTRC", b"bTRC"}:
            assert profile[offset : offset + 4] == b"para"
            profile[offset + 8 : offset + 16] = struct.pack(">HHi", 0, 0, 1 << 16)
    return bytes(profile)


def mixed_images() -> Iterator[MixedImage]:
    """Yield the files one at a time; the largest have 12 megapixels."""
    for size in _SMALL:
        yield from _of_every_mode(*size)
    yield from _unusual_pngs()
    yield from _jpegs()
    yield from _webps()
    yield from _with_exif_and_profiles()
    yield from _animated()
    yield from _large()


def write_mixed_images(folder: Path) -> list[Path]:
    """Write the files into a folder and return their paths."""
    paths = []
    for image in mixed_images():
        paths.append(folder / image.name)
        paths[-1].write_bytes(image.data)
    return paths


def _file(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _as_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=-1)


def _of_every_mode(width: int, height: int) -> Iterator[MixedImage]:
    """PNGs of each mode that Pillow writes."""
    pixels, alpha = gradient(width, height), alpha_ramp(width, height)
    image = Image.fromarray(pixels)
    gray = np.asarray(image.convert("L"))
    size = f"{width}x{height}"

    def png(name: str, stored: Image.Image, expected, alpha=None, **options) -> MixedImage:
        return MixedImage(
            f"png-{name}-{size}.png", _file(stored, "PNG", **options), expected, alpha
        )

    white = gray >= 128
    yield png("1", Image.fromarray(white), _as_rgb(white * np.uint8(255)))
    yield png("l", Image.fromarray(gray), _as_rgb(gray))
    yield png("la", Image.fromarray(np.dstack([gray, alpha]), "LA"), _as_rgb(gray), alpha)
    deep = gray.astype(np.uint16) * 257 + alpha // 3
    yield png("i16", Image.fromarray(deep), _as_rgb(np.round(deep / 257).astype(np.uint8)))
    yield png("rgb", image, pixels)
    yield png("rgba", Image.fromarray(np.dstack([pixels, alpha])), pixels, alpha)
    palette = image.quantize(64, dither=Image.Dither.NONE)
    expected = np.asarray(palette.convert("RGB"))
    yield png("p", palette, expected)
    levels = np.arange(256, dtype=np.uint8)
    yield png(
        "p-trns", palette, expected, levels[np.asarray(palette)], transparency=levels.tobytes()
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(
    values: np.ndarray, *, depth=8, color_type=2, interlaced=False, chunks: bytes = b""
) -> bytes:
    """A PNG of values ``[H, W, C]`` with `depth` bits, of kinds that Pillow cannot write."""
    height, width, _ = values.shape
    data = b""
    for x, y, dx, dy in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = values[y::dy, x::dx]
        for row in part if part.size else ():
            bits = row.reshape(-1, 1).astype(np.int64) >> np.arange(depth)[::-1] & 1
            data += b"\0" + np.packbits(bits.astype(np.uint8)).tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + chunks
        + _chunk(b"IDAT", zlib.compress(data))
        + _chunk(b"IEND", b"")
    )


def _unusual_pngs() -> Iterator[MixedImage]:
    """PNGs that are interlaced, have 2, 4 or 16 bits per channel, or a transparent color."""
    for width, height in ((1, 1), (33, 21), (200, 150)):
        pixels, alpha = gradient(width, height), alpha_ramp(width, height)
        gray = pixels[..., :1]
        size = f"{width}x{height}"
        for name, values, color_type in (
            ("l", gray, 0),
            ("rgb", pixels, 2),
            ("rgba", np.dstack([pixels, alpha]), 6),
        ):
            yield MixedImage(
                f"png-interlaced-{name}-{size}.png",
                _png(values, color_type=color_type, interlaced=True),
                _as_rgb(gray[..., 0]) if name == "l" else pixels,
                alpha if name == "rgba" else None,
            )
    pixels, alpha = gradient(51, 35), alpha_ramp(51, 35)
    for depth in (2, 4):
        max_value = 2**depth - 1
        values = np.round(pixels[..., :1] / 255 * max_value).astype(np.uint8)
        expected = _as_rgb(values[..., 0] * np.uint8(255 // max_value))
        yield MixedImage(f"png-{depth}-bits.png", _png(values, depth=depth, color_type=0), expected)
    deep = np.dstack([pixels, alpha]).astype(np.uint16) * 257
    yield MixedImage("png-rgb-16.png", _png(deep[..., :3], depth=16), pixels)
    yield MixedImage("png-rgba-16.png", _png(deep, depth=16, color_type=6), pixels, alpha)
    key = pixels[3, 4]
    keyed = np.where((pixels == key).all(axis=-1), np.uint8(0), np.uint8(255))
    chunks = _chunk(b"tRNS", struct.pack(">3H", *key))
    yield MixedImage("png-rgb-trns.png", _png(pixels, chunks=chunks), pixels, keyed)


def _jpegs() -> Iterator[MixedImage]:
    """JPEGs of each mode, baseline and progressive."""
    for width, height in ((1, 1), (301, 203)):
        pixels = gradient(width, height)
        image = Image.fromarray(pixels)
        for mode in ("L", "RGB", "CMYK"):
            for progressive in (False, True):
                expected = _as_rgb(np.asarray(image.convert("L"))) if mode == "L" else pixels
                name = f"jpeg-{mode.lower()}-{'many' if progressive else 'one'}-{width}x{height}"
                data = _file(image.convert(mode), "JPEG", quality=90, progressive=progressive)
                yield MixedImage(f"{name}.jpg", data, expected, tolerance=4)
    pixels = gradient(320, 240)
    image = Image.fromarray(pixels)
    data = _file(image, "JPEG", quality=15, subsampling=2)
    yield MixedImage("jpeg-poor.jpg", data, pixels, tolerance=10)
    data = _file(image, "JPEG", quality=95, subsampling=0, comment="a comment", optimize=True)
    yield MixedImage("jpeg-fine.jpg", data, pixels, tolerance=2)
    data = _file(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    yield MixedImage("jpeg-of-two.jpg", data, pixels, tolerance=4)


def _webps() -> Iterator[MixedImage]:
    """Lossy and lossless WebP, with and without alpha."""
    for width, height in ((1, 1), (121, 83)):
        pixels, alpha = gradient(width, height), alpha_ramp(width, height)
        for name, image, opacity in (
            ("rgb", Image.fromarray(pixels), None),
            ("rgba", Image.fromarray(np.dstack([pixels, alpha])), alpha),
        ):
            for lossless in (False, True):
                data = _file(image, "WEBP", lossless=lossless, quality=90, exact=True)
                yield MixedImage(
                    f"webp-{name}-{'lossless' if lossless else 'lossy'}-{width}x{height}.webp",
                    data,
                    pixels,
                    opacity,
                    tolerance=0 if lossless else 4,
                )


def _with_exif_and_profiles() -> Iterator[MixedImage]:
    """Files with the metadata of cameras and editors: EXIF orientation and ICC profiles."""
    pixels = gradient(90, 50)
    image = Image.fromarray(pixels)
    for kind, orientations in (("JPEG", range(1, 9)), ("PNG", (6,)), ("WEBP", (8,))):
        for orientation in orientations:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = orientation
            exif[ExifTags.Base.Make] = "A camera"
            turn = _STORED.get(orientation)
            stored = image if turn is None else image.transpose(turn)
            options = {"lossless": True} if kind == "WEBP" else {}
            data = _file(stored, kind, exif=exif, **options)
            name = f"{kind.lower()}-orientation-{orientation}.{kind.lower()}"
            yield MixedImage(name, data, pixels, tolerance=4 if kind == "JPEG" else 0)
    unit = pixels / 255
    light = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    linear = Image.fromarray(np.round(light * 255).astype(np.uint8))
    for kind in ("PNG", "JPEG", "WEBP"):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
        data = _file(linear, kind, icc_profile=linear_profile(), **options)
        yield MixedImage(f"{kind.lower()}-linear.{kind.lower()}", data, pixels, tolerance=4)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = _file(image, "JPEG", icc_profile=srgb)
    yield MixedImage("jpeg-srgb.jpeg", data, pixels, tolerance=4)


def _animated() -> Iterator[MixedImage]:
    """Animations; the expected content is the first frame."""
    pixels, alpha = gradient(60, 44), alpha_ramp(60, 44)
    still, transparent = Image.fromarray(pixels), Image.fromarray(np.dstack([pixels, alpha]))
    for name, image, opacity in (("rgb", still, None), ("rgba", transparent, alpha)):
        options = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
        yield MixedImage(
            f"png-animated-{name}.png",
            _file(image, "PNG", **options),
            pixels,
            opacity,
            animated=True,
        )
    options["append_images"] = [still.rotate(180)]
    data = _file(still, "WEBP", lossless=True, **options)
    yield MixedImage("webp-animated.webp", data, pixels, animated=True)


def _large() -> Iterator[MixedImage]:
    """Images of the size of a camera image, and images with a side of one pixel."""
    for width, height in ((4000, 1), (1, 4000)):
        pixels = gradient(width, height)
        data = _file(Image.fromarray(pixels), "PNG")
        yield MixedImage(f"png-{width}x{height}.png", data, pixels)
    pixels = gradient(4000, 3000)
    image = Image.fromarray(pixels)
    yield MixedImage("png-4000x3000.png", _file(image, "PNG", compress_level=1), pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = _file(image.transpose(_T.ROTATE_90), "JPEG", exif=exif, progressive=True)
    yield MixedImage("jpeg-4000x3000.jpg", data, pixels, tolerance=4)
    gray = np.ascontiguousarray(pixels[:2000, :3000, 0])
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    data = _file(deep, "PNG", compress_level=1)
    yield MixedImage("png-i16-3000x2000.png", data, _as_rgb(gray))
    pixels = gradient(2400, 1600)
    data = _file(Image.fromarray(pixels), "WEBP", quality=80, method=0)
    yield MixedImage("webp-2400x1600.webp", data, pixels, tolerance=4)
