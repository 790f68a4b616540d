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
    box_mask,
    decode_image,
    decode_mask,
)
from tests.support.hostile_images import corpus, png_of
from tests.support.mixed_images import COUNT, linear_profile, mixed_pictures

# The module's own filter does not hold here: pytest sets its own for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore::Warning:PIL\..*")

CORPUS = corpus()
# What each file of the corpus must be, besides what no file may do. The rest is no picture.
TOO_LARGE = {"png-bomb", "png-bomb-of-bits", "png-tall-bomb", "jpeg-said-larger"}
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
    "png-text-bomb",  # No more text than is unpacked.
}
MEGAPIXEL = 2**20


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(height=30, width=40) -> np.ndarray:
    """A smooth picture: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 0 * x + 90], axis=-1).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, *, depth: int, colour: int, more: bytes = b"", width=None) -> bytes:
    """A PNG of rows ``[H, bytes]``, unfiltered."""
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return png_of(
        width or rows.shape[1],
        len(rows),
        zlib.compress(data),
        depth=depth,
        colour=colour,
        more=more,
    )


def read(data: bytes, **options) -> DecodedImage:
    return decode_image(data, max_pixels=options.pop("max_pixels", MEGAPIXEL), **options)


def tried(data: bytes, *, max_pixels=MEGAPIXEL, animated="refuse") -> ImageErrorKind | None:
    """Read a file, and say what is wrong with it. Nothing but an upload or its error comes out."""
    try:
        upload = read(data, max_pixels=max_pixels, animated=animated)
    except ImageDecodeError as error:
        said = error
    else:
        height, width, channels = upload.pixels.shape
        assert channels == 3
        assert 0 < height * width <= max_pixels
        assert upload.pixels.dtype == np.uint8
        assert upload.alpha is None or upload.alpha.shape == (height, width)
        return None
    assert len(str(said).splitlines()) == 1
    assert "0x" not in str(said)
    return said.kind


def test_lossless_files_give_back_their_pixels():
    pixels = picture()
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True})]:
        upload = read(file_of(Image.fromarray(pixels), kind, **options))
        np.testing.assert_array_equal(upload.pixels, pixels)
        assert upload.pixels.dtype == np.uint8
        assert upload.alpha is None
        with pytest.raises(ValueError, match="read-only"):
            upload.pixels[0] = 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_is_near(options):
    upload = read(file_of(Image.fromarray(picture()), "JPEG", quality=95, **options))
    assert np.abs(upload.pixels.astype(int) - picture()).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_kept_apart_and_colours_below_it_too(kind):
    alpha = np.arange(1200, dtype=np.uint16).reshape(30, 40).astype(np.uint8)
    both = np.dstack([picture(), alpha])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    upload = read(file_of(Image.fromarray(both), kind, **options))
    np.testing.assert_array_equal(upload.pixels, both[..., :3])
    np.testing.assert_array_equal(upload.alpha, alpha)


def test_grey_with_alpha():
    both = np.random.default_rng(0).integers(0, 256, (5, 7, 2), np.uint8)
    upload = read(file_of(Image.fromarray(both, "LA"), "PNG"))
    np.testing.assert_array_equal(upload.pixels, both[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(upload.alpha, both[..., 1])


@pytest.mark.parametrize("levels", [b"\x00", b"\xff\x00", b"\x10\x80\xff", b"\xff\xff"])
def test_a_palette_and_what_it_has_as_transparent(levels):
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2)
    colours = bytes([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    more = chunk(b"PLTE", colours) + chunk(b"tRNS", levels)
    upload = read(png(indices, depth=8, colour=3, more=more))
    expected = np.frombuffer(colours, np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(upload.pixels, expected)
    opaque = np.frombuffer(levels.ljust(4, b"\xff"), np.uint8)
    alpha = np.full((2, 2), 255) if upload.alpha is None else upload.alpha
    np.testing.assert_array_equal(alpha, opaque.reshape(2, 2))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_is_scaled_and_one_level_of_it_is_transparent(depth):
    most = 2**depth - 1
    levels = np.unique(np.linspace(0, most, 13).astype(int))
    width = 16 * len(levels)  # A whole number of bytes whatever the depth.
    drawn = levels.repeat(16)
    bits = (drawn[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)
    row = np.packbits(bits.reshape(-1))[None]
    key = levels[len(levels) // 2]
    more = chunk(b"tRNS", struct.pack(">H", key))
    upload = read(png(row, depth=depth, colour=0, more=more, width=width))
    expected = np.round(drawn * 255 / most)
    np.testing.assert_array_equal(upload.pixels[0, :, 1], expected)
    np.testing.assert_array_equal(upload.alpha[0], np.where(drawn == key, 0, 255))
    assert read(png(row, depth=depth, colour=0, width=width)).alpha is None


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_of_a_picture_may_be_transparent(depth):
    values = np.array([[[1, 2, 3], [1, 2, 4]]], ">u2" if depth == 16 else "u1")
    stored = values * (257 if depth == 16 else 1)
    more = chunk(b"tRNS", struct.pack(">3H", *stored[0, 0]))
    rows = stored.astype(values.dtype).reshape(1, -1)
    upload = read(png(rows, depth=depth, colour=2, more=more, width=2))
    np.testing.assert_array_equal(upload.pixels, values)
    np.testing.assert_array_equal(upload.alpha, [[0, 255]])


def test_16_bit_colours_and_their_alpha():
    values = np.array([[0, 128, 255, 7]], np.uint8)
    rows = (values.astype(np.uint16) * 257).astype(">u2")
    upload = read(png(rows, depth=16, colour=6, width=1))
    np.testing.assert_array_equal(upload.pixels, [[[0, 128, 255]]])
    np.testing.assert_array_equal(upload.alpha, [[7]])
    upload = read(png(rows, depth=16, colour=4, width=2))
    np.testing.assert_array_equal(upload.pixels[0, :, 2], [0, 255])
    np.testing.assert_array_equal(upload.alpha, [[128, 7]])


def test_cmyk_of_a_jpeg_is_neither_inverted_nor_left_as_it_is():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0] = 255  # Cyan above, black below.
    inks[8:, :, 3] = 255
    upload = read(file_of(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
    assert np.abs(upload.pixels[:6].astype(int) - [0, 255, 255]).max() < 12
    assert upload.pixels[10:].max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_stands_as_exif_says(kind, orientation):
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = file_of(image, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    upload = read(data)
    np.testing.assert_array_equal(upload.pixels, expected)
    assert upload.pixels.flags.c_contiguous
    image.putalpha(Image.fromarray(picture()[..., 0]))
    if kind != "JPEG":
        upload = read(file_of(image, kind, exif=exif, exact=True, **options))
        np.testing.assert_array_equal(upload.alpha, expected[..., 0])


def test_a_profile_is_converted_to_srgb():
    image = Image.new("RGB", (8, 8), (55, 55, 128))
    image.putalpha(77)
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]:
        source = image.convert("RGB") if kind == "JPEG" else image
        upload = read(file_of(source, kind, icc_profile=linear_profile(), **options))
        # 55 / 255 of the light is level 128, and 128 / 255 of it level 188.
        assert np.abs(upload.pixels.astype(int) - [128, 128, 188]).max() <= 3
        assert upload.alpha is None or (upload.alpha == 77).all()
    for mode in ("L", "1", "I;16"):
        upload = read(
            file_of(Image.new(mode, (8, 8), 55 * 257 if mode == "I;16" else 55), "PNG",
                    icc_profile=linear_profile())
        )  # fmt: skip
        assert np.abs(upload.pixels.astype(int) - (255 if mode == "1" else 128)).max() <= 1


def test_srgb_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upload = read(file_of(Image.fromarray(pixels), "PNG", icc_profile=profile))
    assert np.abs(upload.pixels.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("profile", [
    b"rubbish", b"\0" * 200, linear_profile()[:200], linear_profile().replace(b"RGB ", b"CMYK"),
    linear_profile().replace(b"RGB ", b"GRAY"), linear_profile().replace(b"XYZ ", b"Lab "),
])  # fmt: skip
def test_a_broken_or_unfitting_profile_is_passed_over(profile):
    upload = read(file_of(Image.fromarray(picture()), "PNG", icc_profile=profile))
    np.testing.assert_array_equal(upload.pixels, picture())


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused_or_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert tried(data) == "animated"
    upload = read(data, animated="first")
    np.testing.assert_array_equal(upload.pixels, np.asarray(frames[0]))
    still = file_of(frames[0], kind, save_all=True, append_images=[], **options)
    assert read(still).pixels.shape == (5, 9, 3)


def test_a_jpeg_with_more_pictures_behind_the_first_is_no_animation():
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "green")]
    data = file_of(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(read(data).pixels.astype(int) - [254, 0, 0]).max() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_has_at_most_so_many_pixels(kind):
    data = file_of(Image.fromarray(picture()), kind)
    assert read(data, max_pixels=1200).pixels.shape == (30, 40, 3)
    assert tried(data, max_pixels=1199) == "picture-too-large"


def test_the_cap_is_of_the_header_and_nothing_is_decoded_before(monkeypatch):
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
        assert tried(data, max_pixels=999_999) == "picture-too-large"


def test_a_small_jpeg_that_is_much_work_is_refused():
    data = file_of(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert read(data).pixels.shape == (64, 64, 3)
    body, scan = data[:-2], data[last:-2]
    assert read(body + scan * 100 + data[-2:]).pixels.shape == (64, 64, 3)
    assert tried(body + scan * 1000 + data[-2:]) == "not-a-picture"


def test_what_follows_a_jpeg_does_not_count():
    data = file_of(Image.fromarray(picture()), "JPEG")
    assert read(data + b"\0\2" + b"\xff\xda\0\2" * 1000).pixels.shape == (30, 40, 3)


def test_the_hostile_corpus_is_refused_or_read_and_nothing_else():
    kinds = {name: tried(data) for name, data in CORPUS.items()}
    assert {name for name, kind in kinds.items() if kind is None} == READABLE
    assert {name for name, kind in kinds.items() if kind == "picture-too-large"} == TOO_LARGE
    assert {name for name, kind in kinds.items() if kind == "animated"} == ANIMATED
    for name, data in CORPUS.items():
        if kinds[name] is not None:
            with pytest.raises(ImageDecodeError) as said:
                decode_mask(data, max_pixels=MEGAPIXEL)
            assert said.value.kind.startswith("mask-")
            assert len(str(said.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "ICO", "PPM", "TGA"])
def test_other_formats_are_refused(kind):
    assert tried(file_of(Image.fromarray(picture()), kind)) == "not-a-picture"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_wherever_a_file_is_cut_it_is_refused_or_read_whole(kind):
    data = file_of(Image.fromarray(picture()), kind)
    for length in range(len(data)):
        kind = tried(data[:length])
        # Only what stands behind the pixels may be missing.
        assert kind == "not-a-picture" or (kind is None and length > len(data) - 24)


def test_text_in_a_png_is_neither_trusted_nor_unpacked_without_end():
    image = Image.fromarray(picture())
    for zipped in (True, False):
        info = PngInfo()
        for name in ("transparency", "icc_profile", "exif", "bbox", "interlace", "gamma"):
            info.add_text(name, "x" * 100, zip=zipped)
            one = PngInfo()
            one.add_text(name, "x" * 100, zip=zipped)
            wrong = tried(file_of(image, "PNG", pnginfo=one))
            assert wrong is None or name in {"bbox", "interlace"}
        tried(file_of(image, "PNG", pnginfo=info))
    bomb = PngInfo()
    bomb.add_text("a", "x" * 2**24, zip=True)
    assert tried(file_of(image, "PNG", pnginfo=bomb)) == "not-a-picture"


def seeds() -> list[bytes]:
    """Small files of every kind, to be broken."""
    image = Image.fromarray(picture(12, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    more = {"exif": exif, "icc_profile": linear_profile()}
    info = PngInfo()
    info.add_text("a", "b" * 50, zip=True)
    info.add_itxt("c", "d" * 50, zip=True)
    files = [
        file_of(image.convert(mode), "PNG", pnginfo=info, **more)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    ]
    files += [file_of(image, "JPEG", progressive=p, **more) for p in (False, True)]
    files += [file_of(image.convert(mode), "JPEG", exif=exif) for mode in ("L", "CMYK")]
    files += [file_of(image.convert("RGBA"), "WEBP", lossless=x, **more) for x in (False, True)]
    files += [file_of(image, "WEBP"), file_of(image.convert("P"), "PNG", transparency=b"\1\2\3")]
    files += [file_of(image, "PNG", transparency=(1, 2, 3)), CORPUS["png-animated"]]
    files += [CORPUS["webp-animated"], file_of(image, "MPO", save_all=True, append_images=[image])]
    return files


SEEDS = seeds()


def with_right_checksums(data: bytes) -> bytes:
    """Mend a PNG's checksums, so that a reader gets to what was broken."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 8 : at + 8 + length]
        out += chunk(data[at + 4 : at + 8], body)
        at += 12 + length
    return out


def broken(data: bytes, seed: int) -> bytes:
    """Change, drop, repeat or insert a few bytes, more often near the start."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 6)):
        at = int(len(data) * rng.random() ** rng.choice([1, 3]))
        size = rng.choice([1, 1, 2, 4, 30])
        new = rng.choice(
            [rng.randbytes(size), bytes(size), b"\xff" * size, data[at : at + size] * 2, b""]
        )
        data = data[:at] + new + data[at + rng.choice([0, len(new), size]) :]
    return with_right_checksums(data) if data[:4] == b"\x89PNG" and rng.random() < 0.8 else data


def test_the_files_that_are_broken_can_be_read_whole():
    for data in SEEDS:
        assert read(data, animated="first").pixels.size
        if data[:4] == b"\x89PNG":
            assert with_right_checksums(data) == data


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**64))
def test_no_broken_file_raises_anything_else(which, seed):
    tried(broken(SEEDS[which], seed), max_pixels=2**22, animated="first")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8"]),
       st.binary(max_size=200))  # fmt: skip
def test_nor_do_bytes(start, data):
    tried(start + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_nor_do_profiles_and_exif(data, kind):
    image = Image.new("RGB", (4, 4))
    whole = linear_profile()
    cut = whole[: len(data)] + data + whole[2 * len(data) :]
    for profile in (data, cut):
        if profile:
            tried(file_of(image, kind, icc_profile=profile, exif=b"Exif\0\0MM\0*" + data))


def test_a_hundred_mixed_files_are_read_as_what_they_show():
    names = set()
    for shown in mixed_pictures():
        names.add(shown.name)
        upload = read(shown.data, max_pixels=4000 * 3000, animated="first")
        assert upload.pixels.shape == shown.pixels.shape, shown
        difference = np.abs(upload.pixels.astype(np.int16) - shown.pixels)
        assert difference.mean() <= shown.apart, shown
        assert (upload.alpha is None) == (shown.alpha is None), shown
        if shown.alpha is not None:
            np.testing.assert_array_equal(upload.alpha, shown.alpha)
        if shown.animated:
            assert tried(shown.data) == "animated"
        elif upload.pixels.size < 10**6:
            mask = decode_mask(shown.data, max_pixels=10**6)
            assert mask.shape == shown.pixels.shape[:2], shown
    assert len(names) == COUNT


def test_a_mask_is_white_where_it_is_half_white_at_least():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = decode_mask(file_of(Image.fromarray(grey), "PNG"), max_pixels=256)
    np.testing.assert_array_equal(mask, np.where(grey >= 128, 255, 0))
    deep = (grey.astype(np.uint16) * 257).astype(np.uint16)
    mask = decode_mask(file_of(Image.fromarray(deep), "PNG"), max_pixels=256)
    np.testing.assert_array_equal(mask, np.where(grey >= 128, 255, 0))


def test_what_is_transparent_in_a_mask_lies_on_black():
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for level in (0, 127, 128, 200, 255):
        both = np.dstack([np.full_like(alpha, level)] * 3 + [alpha])
        mask = decode_mask(file_of(Image.fromarray(both), "PNG"), max_pixels=256)
        laid = Image.alpha_composite(Image.new("RGBA", (16, 16), "black"), Image.fromarray(both))
        expected = np.where(np.asarray(laid.convert("L")) >= 128, 255, 0)
        np.testing.assert_array_equal(mask, expected)


def test_a_mask_of_one_bit_is_as_it_is():
    drawn = np.random.default_rng(0).random((9, 13)) < 0.5
    mask = decode_mask(file_of(Image.fromarray(drawn), "PNG"), max_pixels=1000)
    np.testing.assert_array_equal(mask, drawn * np.uint8(255))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no", "mask-not-a-picture"),
        (CORPUS["png-bomb"], "mask-too-large"),
        (CORPUS["png-animated"], "mask-animated"),
    ],
)
def test_a_mask_that_cannot_be_read_is_said_to_be_a_mask(data, kind):
    with pytest.raises(ImageDecodeError, match=re.escape("The mask: ")) as said:
        decode_mask(data, max_pixels=MEGAPIXEL)
    assert said.value.kind == kind


def test_boxes_are_filled():
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
def test_boxes_that_are_empty_or_outside_are_refused(boxes):
    with pytest.raises(ImageDecodeError) as said:
        box_mask(boxes, 5, 3)
    assert said.value.kind == "box-outside"
