"""A hundred pictures as people have them: every mode, size and kind of file that is to be read.

What each shows is known, so that what a reader makes of it can be compared. They are the same
whenever they are made.
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
# How a picture is stored that each orientation sets upright again.
_STORED = {
    2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE,
    6: _T.ROTATE_90, 7: _T.TRANSVERSE, 8: _T.ROTATE_270,
}  # fmt: skip
# Where PNG's seven passes begin, and how far apart their pixels are: x, y, dx, dy.
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
_SMALL = ((1, 1), (7, 1), (1, 13), (97, 61), (640, 480))


@dataclass(frozen=True)
class MixedPicture:
    """A file, and what it shows: `pixels` ``[H, W, 3]``, upright and in sRGB, and its alpha.

    `apart` is how many levels a right reader may be off by, in the mean: 0 where nothing is lost.
    """

    name: str
    data: bytes = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    alpha: np.ndarray | None = field(default=None, repr=False)
    apart: float = 0
    animated: bool = False


def drawn(width: int, height: int) -> np.ndarray:
    """A picture ``[height, width, 3]`` of soft colours that is another in each mirror image."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y / max(height - 1, 1), x / max(width - 1, 1)
    red, green = 40 + 180 * x, 220 - 150 * y
    blue = 120 + 90 * np.sin(5 * x + 3 * y)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def shade(width: int, height: int) -> np.ndarray:
    """Alpha ``[height, width]``; nowhere 0, where some files keep no colour."""
    y, x = np.mgrid[:height, :width]
    return (40 + (7 * x + 3 * y) % 216).astype(np.uint8)


def linear_profile() -> bytes:
    """An ICC profile: sRGB's colours with a curve of gamma 1 in place of their own."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (tags,) = struct.unpack(">I", profile[128:132])
    for at in range(132, 132 + 12 * tags, 12):
        name, offset, _ = struct.unpack(">4sII", profile[at : at + 12])
        if name in {b"rTRC", b"gTRC", b"bTRC"}:
            assert profile[offset : offset + 4] == b"para"
            profile[offset + 8 : offset + 16] = struct.pack(">HHi", 0, 0, 1 << 16)
    return bytes(profile)


def mixed_pictures() -> Iterator[MixedPicture]:
    """Make the files, one after the other: the largest have 12 megapixels."""
    for size in _SMALL:
        yield from _of_every_mode(*size)
    yield from _written_by_hand()
    yield from _jpegs()
    yield from _webps()
    yield from _with_exif_and_profiles()
    yield from _animated()
    yield from _large()


def write_mixed_pictures(folder: Path) -> list[Path]:
    """Write the files into a folder."""
    paths = []
    for picture in mixed_pictures():
        paths.append(folder / picture.name)
        paths[-1].write_bytes(picture.data)
    return paths


def _file(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def _of_every_mode(width: int, height: int) -> Iterator[MixedPicture]:
    """PNGs of each mode that Pillow writes."""
    pixels, alpha = drawn(width, height), shade(width, height)
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    size = f"{width}x{height}"

    def png(name: str, stored: Image.Image, shown, alpha=None, **options) -> MixedPicture:
        return MixedPicture(f"png-{name}-{size}.png", _file(stored, "PNG", **options), shown, alpha)

    black = grey >= 128
    yield png("1", Image.fromarray(black), _three(black * np.uint8(255)))
    yield png("l", Image.fromarray(grey), _three(grey))
    yield png("la", Image.fromarray(np.dstack([grey, alpha]), "LA"), _three(grey), alpha)
    deep = grey.astype(np.uint16) * 257 + alpha // 3
    yield png("i16", Image.fromarray(deep), _three(np.round(deep / 257).astype(np.uint8)))
    yield png("rgb", image, pixels)
    yield png("rgba", Image.fromarray(np.dstack([pixels, alpha])), pixels, alpha)
    palette = image.quantize(64, dither=Image.Dither.NONE)
    shown = np.asarray(palette.convert("RGB"))
    yield png("p", palette, shown)
    levels = np.arange(256, dtype=np.uint8)
    yield png("p-trns", palette, shown, levels[np.asarray(palette)], transparency=levels.tobytes())


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(values: np.ndarray, *, depth=8, colour=2, interlaced=False, more: bytes = b"") -> bytes:
    """A PNG of values ``[H, W, C]`` of `depth` bits, for what Pillow does not write."""
    height, width, _ = values.shape
    data = b""
    for x, y, dx, dy in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = values[y::dy, x::dx]
        for row in part if part.size else ():
            bits = row.reshape(-1, 1).astype(np.int64) >> np.arange(depth)[::-1] & 1
            data += b"\0" + np.packbits(bits.astype(np.uint8)).tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + more
        + _chunk(b"IDAT", zlib.compress(data))
        + _chunk(b"IEND", b"")
    )


def _written_by_hand() -> Iterator[MixedPicture]:
    """PNGs that are interlaced, of few bits or of many, or with one transparent colour."""
    for width, height in ((1, 1), (33, 21), (200, 150)):
        pixels, alpha = drawn(width, height), shade(width, height)
        grey = pixels[..., :1]
        size = f"{width}x{height}"
        for name, values, colour in (
            ("l", grey, 0),
            ("rgb", pixels, 2),
            ("rgba", np.dstack([pixels, alpha]), 6),
        ):
            yield MixedPicture(
                f"png-interlaced-{name}-{size}.png",
                _png(values, colour=colour, interlaced=True),
                _three(grey[..., 0]) if name == "l" else pixels,
                alpha if name == "rgba" else None,
            )
    pixels, alpha = drawn(51, 35), shade(51, 35)
    for depth in (2, 4):
        most = 2**depth - 1
        few = np.round(pixels[..., :1] / 255 * most).astype(np.uint8)
        shown = _three(few[..., 0] * np.uint8(255 // most))
        yield MixedPicture(f"png-{depth}-bits.png", _png(few, depth=depth, colour=0), shown)
    deep = np.dstack([pixels, alpha]).astype(np.uint16) * 257
    yield MixedPicture("png-rgb-16.png", _png(deep[..., :3], depth=16), pixels)
    yield MixedPicture("png-rgba-16.png", _png(deep, depth=16, colour=6), pixels, alpha)
    key = pixels[3, 4]
    keyed = np.where((pixels == key).all(axis=-1), np.uint8(0), np.uint8(255))
    more = _chunk(b"tRNS", struct.pack(">3H", *key))
    yield MixedPicture("png-rgb-trns.png", _png(pixels, more=more), pixels, keyed)


def _jpegs() -> Iterator[MixedPicture]:
    """JPEGs of each mode, in one scan and in many."""
    for width, height in ((1, 1), (301, 203)):
        pixels = drawn(width, height)
        image = Image.fromarray(pixels)
        for mode in ("L", "RGB", "CMYK"):
            for progressive in (False, True):
                shown = _three(np.asarray(image.convert("L"))) if mode == "L" else pixels
                name = f"jpeg-{mode.lower()}-{'many' if progressive else 'one'}-{width}x{height}"
                data = _file(image.convert(mode), "JPEG", quality=90, progressive=progressive)
                yield MixedPicture(f"{name}.jpg", data, shown, apart=4)
    pixels = drawn(320, 240)
    image = Image.fromarray(pixels)
    data = _file(image, "JPEG", quality=15, subsampling=2)
    yield MixedPicture("jpeg-poor.jpg", data, pixels, apart=10)
    data = _file(image, "JPEG", quality=95, subsampling=0, comment="a comment", optimize=True)
    yield MixedPicture("jpeg-fine.jpg", data, pixels, apart=2)
    data = _file(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    yield MixedPicture("jpeg-of-two.jpg", data, pixels, apart=4)


def _webps() -> Iterator[MixedPicture]:
    """WebP in both its codings, with alpha and without."""
    for width, height in ((1, 1), (121, 83)):
        pixels, alpha = drawn(width, height), shade(width, height)
        for name, image, opacity in (
            ("rgb", Image.fromarray(pixels), None),
            ("rgba", Image.fromarray(np.dstack([pixels, alpha])), alpha),
        ):
            for lossless in (False, True):
                data = _file(image, "WEBP", lossless=lossless, quality=90, exact=True)
                yield MixedPicture(
                    f"webp-{name}-{'lossless' if lossless else 'lossy'}-{width}x{height}.webp",
                    data,
                    pixels,
                    opacity,
                    apart=0 if lossless else 4,
                )


def _with_exif_and_profiles() -> Iterator[MixedPicture]:
    """What cameras and editors write beside the pixels."""
    pixels = drawn(90, 50)
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
            yield MixedPicture(name, data, pixels, apart=4 if kind == "JPEG" else 0)
    unit = pixels / 255
    light = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    linear = Image.fromarray(np.round(light * 255).astype(np.uint8))
    for kind in ("PNG", "JPEG", "WEBP"):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
        data = _file(linear, kind, icc_profile=linear_profile(), **options)
        yield MixedPicture(f"{kind.lower()}-linear.{kind.lower()}", data, pixels, apart=4)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = _file(image, "JPEG", icc_profile=srgb)
    yield MixedPicture("jpeg-srgb.jpeg", data, pixels, apart=4)


def _animated() -> Iterator[MixedPicture]:
    """Animations, by their first frame."""
    pixels, alpha = drawn(60, 44), shade(60, 44)
    still, sheer = Image.fromarray(pixels), Image.fromarray(np.dstack([pixels, alpha]))
    for name, image, opacity in (("rgb", still, None), ("rgba", sheer, alpha)):
        more = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
        yield MixedPicture(
            f"png-animated-{name}.png", _file(image, "PNG", **more), pixels, opacity, animated=True
        )
    more["append_images"] = [still.rotate(180)]
    data = _file(still, "WEBP", lossless=True, **more)
    yield MixedPicture("webp-animated.webp", data, pixels, animated=True)


def _large() -> Iterator[MixedPicture]:
    """What a camera gives, and what is long and thin."""
    for width, height in ((4000, 1), (1, 4000)):
        pixels = drawn(width, height)
        data = _file(Image.fromarray(pixels), "PNG")
        yield MixedPicture(f"png-{width}x{height}.png", data, pixels)
    pixels = drawn(4000, 3000)
    image = Image.fromarray(pixels)
    yield MixedPicture("png-4000x3000.png", _file(image, "PNG", compress_level=1), pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = _file(image.transpose(_T.ROTATE_90), "JPEG", exif=exif, progressive=True)
    yield MixedPicture("jpeg-4000x3000.jpg", data, pixels, apart=4)
    grey = np.ascontiguousarray(pixels[:2000, :3000, 0])
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    data = _file(deep, "PNG", compress_level=1)
    yield MixedPicture("png-i16-3000x2000.png", data, _three(grey))
    pixels = drawn(2400, 1600)
    data = _file(Image.fromarray(pixels), "WEBP", quality=80, method=0)
    yield MixedPicture("webp-2400x1600.webp", data, pixels, apart=4)
