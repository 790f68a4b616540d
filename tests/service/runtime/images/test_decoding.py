import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from service.runtime.images.decoding import (
    DecodedImage,
    ImageDecodeError,
    ImageErrorKind,
    decode_image,
)
from service.runtime.images.masks import box_mask, decode_mask
from tests.support.hostile_images import corpus, png_of
from tests.support.mixed_images import COUNT, linear_profile, mixed_images

# pytest replaces the warning filter of the module for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore::Warning:PIL\..*")

CORPUS = corpus()
# Expected results for the corpus; all other files have the error kind NOT_AN_IMAGE.
TOO_LARGE = {"png-bomb", "png-1-bit-bomb", "png-tall-bomb", "jpeg-header-too-large"}
ANIMATED = {"png-animated", "webp-animated"}
READABLE = {
    "png-16-bit",
    "png-palette",
    "png-1-bit",
    "png-alpha",
    "png-icc-rubbish",
    "jpeg-cmyk",
    "jpeg-giant-header",
    "jpeg-rubbish-exif",
    "png-text-bomb",  # Its text stays below the limit of the decoder.
}
MEGAPIXEL = 2**20


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(height=30, width=40) -> np.ndarray:
    """A smooth image: red increases to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 0 * x + 90], axis=-1).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, *, depth: int, color: int, more: bytes = b"", width=None) -> bytes:
    """An unfiltered PNG from packed rows ``[H, bytes]``."""
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return png_of(
        width or rows.shape[1],
        len(rows),
        zlib.compress(data),
        depth=depth,
        color=color,
        more=more,
    )


def decode(data: bytes, **options) -> DecodedImage:
    return decode_image(data, max_pixels=options.pop("max_pixels", MEGAPIXEL), **options)


def error_kind(data: bytes, *, max_pixels=MEGAPIXEL, animated="refuse") -> ImageErrorKind | None:
    """Return the error kind of a file, or None if it decodes; any other exception propagates."""
    try:
        decoded = decode(data, max_pixels=max_pixels, animated=animated)
    except ImageDecodeError as error:
        decode_error = error
    else:
        height, width, channels = decoded.pixels.shape
        assert channels == 3
        assert 0 < height * width <= max_pixels
        assert decoded.pixels.dtype == np.uint8
        assert decoded.alpha is None or decoded.alpha.shape == (height, width)
        return None
    assert len(str(decode_error).splitlines()) == 1
    assert "0x" not in str(decode_error)
    return decode_error.kind


def test_lossless_files_round_trip():
    pixels = gradient()
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True})]:
        decoded = decode(file_of(Image.fromarray(pixels), kind, **options))
        np.testing.assert_array_equal(decoded.pixels, pixels)
        assert decoded.pixels.dtype == np.uint8
        assert decoded.alpha is None
        with pytest.raises(ValueError, match="read-only"):
            decoded.pixels[0] = 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_decodes_jpeg_approximately(options):
    decoded = decode(file_of(Image.fromarray(gradient()), "JPEG", quality=95, **options))
    assert np.abs(decoded.pixels.astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_keeps_alpha_and_colors_of_transparent_pixels(kind):
    alpha = np.arange(1200, dtype=np.uint16).reshape(30, 40).astype(np.uint8)
    both = np.dstack([gradient(), alpha])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode(file_of(Image.fromarray(both), kind, **options))
    np.testing.assert_array_equal(decoded.pixels, both[..., :3])
    np.testing.assert_array_equal(decoded.alpha, alpha)


def test_decodes_gray_with_alpha():
    both = np.random.default_rng(0).integers(0, 256, (5, 7, 2), np.uint8)
    decoded = decode(file_of(Image.fromarray(both, "LA"), "PNG"))
    np.testing.assert_array_equal(decoded.pixels, both[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(decoded.alpha, both[..., 1])


@pytest.mark.parametrize("levels", [b"\x00", b"\xff\x00", b"\x10\x80\xff", b"\xff\xff"])
def test_decodes_palette_with_transparency(levels):
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2)
    colors = bytes([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    more = chunk(b"PLTE", colors) + chunk(b"tRNS", levels)
    decoded = decode(png(indices, depth=8, color=3, more=more))
    expected = np.frombuffer(colors, np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(decoded.pixels, expected)
    opaque = np.frombuffer(levels.ljust(4, b"\xff"), np.uint8)
    alpha = np.full((2, 2), 255) if decoded.alpha is None else decoded.alpha
    np.testing.assert_array_equal(alpha, opaque.reshape(2, 2))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_scales_gray_of_any_bit_depth_with_transparent_level(depth):
    max_level = 2**depth - 1
    levels = np.unique(np.linspace(0, max_level, 13).astype(int))
    width = 16 * len(levels)  # A whole number of bytes at any depth.
    row_levels = levels.repeat(16)
    bits = (row_levels[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)
    row = np.packbits(bits.reshape(-1))[None]
    key = levels[len(levels) // 2]
    more = chunk(b"tRNS", struct.pack(">H", key))
    decoded = decode(png(row, depth=depth, color=0, more=more, width=width))
    expected = np.round(row_levels * 255 / max_level)
    np.testing.assert_array_equal(decoded.pixels[0, :, 1], expected)
    np.testing.assert_array_equal(decoded.alpha[0], np.where(row_levels == key, 0, 255))
    assert decode(png(row, depth=depth, color=0, width=width)).alpha is None


@pytest.mark.parametrize("depth", [8, 16])
def test_decodes_transparent_color(depth):
    values = np.array([[[1, 2, 3], [1, 2, 4]]], ">u2" if depth == 16 else "u1")
    stored = values * (257 if depth == 16 else 1)
    more = chunk(b"tRNS", struct.pack(">3H", *stored[0, 0]))
    rows = stored.astype(values.dtype).reshape(1, -1)
    decoded = decode(png(rows, depth=depth, color=2, more=more, width=2))
    np.testing.assert_array_equal(decoded.pixels, values)
    np.testing.assert_array_equal(decoded.alpha, [[0, 255]])


def test_decodes_16_bit_colors_with_alpha():
    values = np.array([[0, 128, 255, 7]], np.uint8)
    rows = (values.astype(np.uint16) * 257).astype(">u2")
    decoded = decode(png(rows, depth=16, color=6, width=1))
    np.testing.assert_array_equal(decoded.pixels, [[[0, 128, 255]]])
    np.testing.assert_array_equal(decoded.alpha, [[7]])
    decoded = decode(png(rows, depth=16, color=4, width=2))
    np.testing.assert_array_equal(decoded.pixels[0, :, 2], [0, 255])
    np.testing.assert_array_equal(decoded.alpha, [[128, 7]])


def test_converts_cmyk_jpeg():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0] = 255  # Cyan in the upper half, black in the lower.
    inks[8:, :, 3] = 255
    decoded = decode(file_of(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
    assert np.abs(decoded.pixels[:6].astype(int) - [0, 255, 255]).max() < 12
    assert decoded.pixels[10:].max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_applies_exif_orientation(kind, orientation):
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = file_of(image, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.pixels.flags.c_contiguous
    image.putalpha(Image.fromarray(gradient()[..., 0]))
    if kind != "JPEG":
        decoded = decode(file_of(image, kind, exif=exif, exact=True, **options))
        np.testing.assert_array_equal(decoded.alpha, expected[..., 0])


def test_converts_profile_to_srgb():
    image = Image.new("RGB", (8, 8), (55, 55, 128))
    image.putalpha(77)
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]:
        source = image.convert("RGB") if kind == "JPEG" else image
        decoded = decode(file_of(source, kind, icc_profile=linear_profile(), **options))
        # Linear 55 / 255 is level 128 in sRGB, and linear 128 / 255 is level 188.
        assert np.abs(decoded.pixels.astype(int) - [128, 128, 188]).max() <= 3
        assert decoded.alpha is None or (decoded.alpha == 77).all()
    for mode in ("L", "1", "I;16"):
        decoded = decode(
            file_of(Image.new(mode, (8, 8), 55 * 257 if mode == "I;16" else 55), "PNG",
                    icc_profile=linear_profile())
        )  # fmt: skip
        assert np.abs(decoded.pixels.astype(int) - (255 if mode == "1" else 128)).max() <= 1


def test_srgb_profile_keeps_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = decode(file_of(Image.fromarray(pixels), "PNG", icc_profile=profile))
    assert np.abs(decoded.pixels.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("profile", [
    b"rubbish", b"\0" * 200, linear_profile()[:200], linear_profile().replace(b"RGB ", b"CMYK"),
    linear_profile().replace(b"RGB ", b"GRAY"), linear_profile().replace(b"XYZ ", b"Lab "),
])  # fmt: skip
def test_ignores_invalid_or_mismatched_profile(profile):
    decoded = decode(file_of(Image.fromarray(gradient()), "PNG", icc_profile=profile))
    np.testing.assert_array_equal(decoded.pixels, gradient())


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_rejects_animation_or_decodes_first_frame(kind):
    frames = [Image.new("RGB", (9, 5), color) for color in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert error_kind(data) == "animated"
    decoded = decode(data, animated="first")
    np.testing.assert_array_equal(decoded.pixels, np.asarray(frames[0]))
    still = file_of(frames[0], kind, save_all=True, append_images=[], **options)
    assert decode(still).pixels.shape == (5, 9, 3)


def test_multi_picture_jpeg_is_not_animated():
    frames = [Image.new("RGB", (9, 5), color) for color in ("red", "green")]
    data = file_of(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(decode(data).pixels.astype(int) - [254, 0, 0]).max() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_rejects_more_than_max_pixels(kind):
    data = file_of(Image.fromarray(gradient()), kind)
    assert decode(data, max_pixels=1200).pixels.shape == (30, 40, 3)
    assert error_kind(data, max_pixels=1199) == "picture-too-large"


def test_checks_size_before_decoding(monkeypatch):
    from PIL import WebPImagePlugin

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(WebPImagePlugin._webp, "WebPAnimDecoder", decode)
    monkeypatch.setattr(Image.core, "new", decode)
    image = Image.new("RGB", (1000, 1000))
    alpha = Image.new("RGBA", (1000, 1000), (1, 2, 3, 4))
    monkeypatch.undo()
    files = [file_of(image, "PNG"), file_of(image, "JPEG"), file_of(image, "WEBP")]
    files += [file_of(image, "WEBP", lossless=True), file_of(alpha, "WEBP", exif=b"Exif\0\0")]
    assert len({data[12:16] for data in files if data[:4] == b"RIFF"}) == 3
    monkeypatch.setattr(WebPImagePlugin._webp, "WebPAnimDecoder", decode)
    monkeypatch.setattr(Image.core, "new", decode)
    for data in files:
        assert error_kind(data, max_pixels=999_999) == "picture-too-large"


def test_rejects_jpeg_with_too_many_scans():
    data = file_of(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert decode(data).pixels.shape == (64, 64, 3)
    body, scan = data[:-2], data[last:-2]
    assert decode(body + scan * 100 + data[-2:]).pixels.shape == (64, 64, 3)
    assert error_kind(body + scan * 1000 + data[-2:]) == "not-a-picture"


def test_ignores_scans_after_end_of_jpeg():
    data = file_of(Image.fromarray(gradient()), "JPEG")
    assert decode(data + b"\0\2" + b"\xff\xda\0\2" * 1000).pixels.shape == (30, 40, 3)


def test_hostile_files_decode_or_raise_decode_error():
    kinds = {name: error_kind(data) for name, data in CORPUS.items()}
    assert {name for name, kind in kinds.items() if kind is None} == READABLE
    assert {name for name, kind in kinds.items() if kind == "picture-too-large"} == TOO_LARGE
    assert {name for name, kind in kinds.items() if kind == "animated"} == ANIMATED
    for name, data in CORPUS.items():
        if kinds[name] is not None:
            with pytest.raises(ImageDecodeError) as caught:
                decode_mask(data, max_pixels=MEGAPIXEL)
            assert caught.value.kind.startswith("mask-")
            assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "ICO", "PPM", "AVIF", "JPEG 2000"])
def test_names_formats_that_are_not_accepted(kind):
    data = file_of(Image.fromarray(gradient()), "JPEG2000" if kind == "JPEG 2000" else kind)
    assert error_kind(data) == "image-format-not-supported"
    with pytest.raises(ImageDecodeError, match=f"in {kind} format.*convert it to PNG"):
        decode(data)
    with pytest.raises(ImageDecodeError, match="The mask: The file is in") as caught:
        decode_mask(data, max_pixels=MEGAPIXEL)
    assert caught.value.kind == "mask-format-not-supported"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEIC, "in HEIC format"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "in SVG format"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is an HTML page, not an image: send"),
        (b'{"image": 1}', "is a JSON document, not an image: send"),
        (b"%PDF-1.7", "is a PDF document, not an image: send"),
        (b"hello", "is not an image: send a PNG"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 40, "is a video"),
    ],
)
def test_says_what_a_file_is(data, message):
    with pytest.raises(ImageDecodeError, match=message):
        decode(data)
    with pytest.raises(ImageDecodeError) as caught:
        decode(data, formats=None)
    assert "send a PNG" not in str(caught.value)


def ramp(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 30 * 40).reshape(30, 40)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.float32(ramp(0, 1)), 0, 255),
        (np.float32(ramp(0, 0.5)), 0, 128),
        (np.float32(ramp(0, 1.25)), 0, 255),
        (np.float32(ramp(-1, 1)), 0, 255),
        (np.float32(ramp(0, 255)), 0, 255),
        (np.float32(ramp(0, 65_535)), 0, 255),
        (np.float32(ramp(-4e5, 4e5)), 0, 255),
        (np.int32(ramp(0, 255)), 0, 255),
        (np.int32(ramp(0, 4095)), 0, 255),
        (np.int32(ramp(0, 65_535)), 0, 255),
        (np.int32(ramp(0, 2**31 - 1)), 0, 255),
        (np.int32(ramp(-300, 300)), 0, 255),
        (np.uint16(ramp(0, 65_535)), 0, 255),
        (np.uint16(ramp(0, 32_768)), 0, 128),
    ],
)
def test_scales_values_of_more_than_8_bits_by_their_range(values, low, high):
    decoded = decode(file_of(Image.fromarray(values), "TIFF"), formats=None)
    assert (decoded.pixels.min(), decoded.pixels.max()) == (low, high)
    assert decoded.is_gray
    assert decoded.scaled == (values.dtype != np.uint16)
    levels = decoded.pixels[..., 0].ravel().astype(int)
    # The order is kept, and steps are even.
    assert (np.diff(levels) >= 0).all()
    assert np.diff(levels).max() <= 1
    if values.dtype == np.int32:  # Pillow does not write the inverse of these values.
        return
    inverted = decode(file_of(Image.fromarray(values), "TIFF", tiffinfo={262: 0}), formats=None)
    np.testing.assert_allclose(inverted.pixels[..., 0].ravel(), 255 - levels, atol=1)


def test_values_that_are_not_finite_do_not_decide_the_range():
    values = np.float32(ramp(0, 1))
    values[0, :3] = np.nan, np.inf, -np.inf
    decoded = decode(file_of(Image.fromarray(values), "TIFF"), formats=None)
    assert list(decoded.pixels[0, :3, 0]) == [0, 255, 0]
    assert decoded.pixels[-1, -1, 0] == 255


def test_gray_with_a_profile_stays_gray():
    gray = Image.fromarray(gradient()[..., 0])
    swapped = file_of(gray, "PNG", icc_profile=linear_profile())
    assert decode(swapped).is_gray
    assert not decode(file_of(Image.fromarray(gradient()), "PNG")).is_gray


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_rejects_truncated_files(kind):
    data = file_of(Image.fromarray(gradient()), kind)
    for length in range(len(data)):
        kind = error_kind(data[:length])
        # Only data after the pixels may be missing.
        assert kind == "not-a-picture" or (kind is None and length > len(data) - 24)


def test_png_text_is_untrusted_and_bounded():
    image = Image.fromarray(gradient())
    for compressed in (True, False):
        info = PngInfo()
        for name in ("transparency", "icc_profile", "exif", "bbox", "interlace", "gamma"):
            info.add_text(name, "x" * 100, zip=compressed)
            single = PngInfo()
            single.add_text(name, "x" * 100, zip=compressed)
            kind = error_kind(file_of(image, "PNG", pnginfo=single))
            assert kind is None or name in {"bbox", "interlace"}
        error_kind(file_of(image, "PNG", pnginfo=info))
    bomb = PngInfo()
    bomb.add_text("a", "x" * 2**24, zip=True)
    assert error_kind(file_of(image, "PNG", pnginfo=bomb)) == "not-a-picture"


def seeds() -> list[bytes]:
    """Small files of every kind, as seeds for mutation."""
    image = Image.fromarray(gradient(12, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    metadata = {"exif": exif, "icc_profile": linear_profile()}
    info = PngInfo()
    info.add_text("a", "b" * 50, zip=True)
    info.add_itxt("c", "d" * 50, zip=True)
    files = [
        file_of(image.convert(mode), "PNG", pnginfo=info, **metadata)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    ]
    files += [file_of(image, "JPEG", progressive=p, **metadata) for p in (False, True)]
    files += [file_of(image.convert(mode), "JPEG", exif=exif) for mode in ("L", "CMYK")]
    files += [file_of(image.convert("RGBA"), "WEBP", lossless=x, **metadata) for x in (False, True)]
    files += [file_of(image, "WEBP"), file_of(image.convert("P"), "PNG", transparency=b"\1\2\3")]
    files += [file_of(image, "PNG", transparency=(1, 2, 3)), CORPUS["png-animated"]]
    files += [CORPUS["webp-animated"], file_of(image, "MPO", save_all=True, append_images=[image])]
    return files


SEEDS = seeds()


def with_valid_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that the decoder reaches the mutated data."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 8 : at + 8 + length]
        out += chunk(data[at + 4 : at + 8], body)
        at += 12 + length
    return out


def mutated(data: bytes, seed: int) -> bytes:
    """Change, delete, repeat or insert a few bytes, more often near the start."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 6)):
        at = int(len(data) * rng.random() ** rng.choice([1, 3]))
        size = rng.choice([1, 1, 2, 4, 30])
        new = rng.choice(
            [rng.randbytes(size), bytes(size), b"\xff" * size, data[at : at + size] * 2, b""]
        )
        data = data[:at] + new + data[at + rng.choice([0, len(new), size]) :]
    return with_valid_checksums(data) if data[:4] == b"\x89PNG" and rng.random() < 0.8 else data


def test_intact_fuzzing_seeds_decode():
    for data in SEEDS:
        assert decode(data, animated="first").pixels.size
        if data[:4] == b"\x89PNG":
            assert with_valid_checksums(data) == data


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**64))
def test_mutated_files_raise_only_decode_error(index, seed):
    error_kind(mutated(SEEDS[index], seed), max_pixels=2**22, animated="first")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8"]),
       st.binary(max_size=200))  # fmt: skip
def test_random_bytes_raise_only_decode_error(start, data):
    error_kind(start + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_random_profile_and_exif_raise_only_decode_error(data, kind):
    image = Image.new("RGB", (4, 4))
    valid = linear_profile()
    overwritten = valid[: len(data)] + data + valid[2 * len(data) :]
    for profile in (data, overwritten):
        if profile:
            error_kind(file_of(image, kind, icc_profile=profile, exif=b"Exif\0\0MM\0*" + data))


@pytest.mark.slow
def test_decodes_mixed_files_correctly():
    names = set()
    for expected in mixed_images():
        names.add(expected.name)
        decoded = decode(expected.data, max_pixels=4000 * 3000, animated="first")
        assert decoded.pixels.shape == expected.pixels.shape, expected
        difference = np.abs(decoded.pixels.astype(np.int16) - expected.pixels)
        assert difference.mean() <= expected.tolerance, expected
        assert (decoded.alpha is None) == (expected.alpha is None), expected
        if expected.alpha is not None:
            np.testing.assert_array_equal(decoded.alpha, expected.alpha)
        if expected.animated:
            assert error_kind(expected.data) == "animated"
        elif decoded.pixels.size < 10**6:
            mask = decode_mask(expected.data, max_pixels=10**6)
            assert mask.shape == expected.pixels.shape[:2], expected
    assert len(names) == COUNT


def test_mask_threshold_is_128():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = decode_mask(file_of(Image.fromarray(gray), "PNG"), max_pixels=256)
    np.testing.assert_array_equal(mask, np.where(gray >= 128, 255, 0))
    deep = (gray.astype(np.uint16) * 257).astype(np.uint16)
    mask = decode_mask(file_of(Image.fromarray(deep), "PNG"), max_pixels=256)
    np.testing.assert_array_equal(mask, np.where(gray >= 128, 255, 0))


def test_composites_transparent_mask_on_black():
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for level in (0, 127, 128, 200, 255):
        both = np.dstack([np.full_like(alpha, level)] * 3 + [alpha])
        mask = decode_mask(file_of(Image.fromarray(both), "PNG"), max_pixels=256)
        composite = Image.alpha_composite(
            Image.new("RGBA", (16, 16), "black"), Image.fromarray(both)
        )
        expected = np.where(np.asarray(composite.convert("L")) >= 128, 255, 0)
        np.testing.assert_array_equal(mask, expected)


def test_decodes_one_bit_mask():
    pattern = np.random.default_rng(0).random((9, 13)) < 0.5
    mask = decode_mask(file_of(Image.fromarray(pattern), "PNG"), max_pixels=1000)
    np.testing.assert_array_equal(mask, pattern * np.uint8(255))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no", "mask-not-a-picture"),
        (CORPUS["png-bomb"], "mask-too-large"),
        (CORPUS["png-animated"], "mask-animated"),
    ],
)
def test_mask_errors_have_mask_kinds(data, kind):
    with pytest.raises(ImageDecodeError, match=re.escape("The mask: ")) as caught:
        decode_mask(data, max_pixels=MEGAPIXEL)
    assert caught.value.kind == kind


def test_box_mask_fills_boxes():
    mask = box_mask([[0, 0, 1, 1], (2, 1, 3, 2), [4, 0, 1, 3]], 5, 3)
    expected = [[255, 0, 0, 0, 255], [0, 0, 255, 255, 255], [0, 0, 255, 255, 255]]
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize(
    "boxes",
    [
        [], [[0, 0, 0, 1]], [[0, 0, 1, 0]], [[0, 0, -1, 1]], [[-1, 0, 2, 2]], [[0, -1, 2, 2]],
        [[4, 0, 2, 1]], [[0, 2, 1, 2]], [[0, 0, 1, 1], [5, 3, 1, 1]], [[0, 0, 1]],
        [[10**30, 0, 1, 1]], [[0, 0, 10**30, 1]],
    ],
)  # fmt: skip
def test_rejects_invalid_boxes(boxes):
    with pytest.raises(ImageDecodeError) as caught:
        box_mask(boxes, 5, 3)
    assert caught.value.kind == "box-outside"
