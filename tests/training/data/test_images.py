import numpy as np
import pytest
from PIL import Image

from tests.support.images import drawn_digits
from training.data.images import DataOptions, fit, load_images
from training.data.sources import DataError


def options(path, **changes) -> DataOptions:
    return DataOptions(path=str(path), **({"resolution": 16, "channels": 3} | changes))


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "set/a/wide.png")
    Image.new("L", (20, 40), 128).save(tmp_path / "set/a/grey.png")
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(tmp_path / "set/b/clear.png")
    return tmp_path / "set"


def test_pictures_are_cut_and_resized_with_their_labels(folder):
    pictures = load_images(options(folder))
    assert pictures.pixels.shape == (3, 16, 16, 3)
    assert pictures.class_names == ("a", "b")
    assert pictures.labels.tolist() == [0, 0, 1]
    grey, wide, clear = pictures.pixels
    assert (grey == 128).all()
    assert (wide == (255, 0, 0)).all()
    assert (clear == 255).all()


def test_channels_are_what_was_asked_for(folder):
    assert load_images(options(folder, channels=1)).pixels.shape == (3, 16, 16, 1)
    rgba = load_images(options(folder, channels=4)).pixels
    assert rgba.shape == (3, 16, 16, 4)
    assert (rgba[2, ..., 3] == 0).all()


def test_the_middle_is_kept_and_made_smaller_without_aliasing():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 32:96:2] = 255  # The middle square is half white, in stripes of one pixel.
    small = fit(Image.fromarray(stripes), 8, 3)
    assert small.shape == (8, 8, 3)
    # Taking every eighth pixel would give black or white; only the rim may differ from grey.
    assert abs(small.astype(int) - 127).max() <= 16
    assert abs(small[:, 1:-1].astype(int) - 127).max() <= 6


def test_pictures_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter to the right when shown.
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    shown = load_images(options(tmp_path)).pixels[0]
    assert shown[:, 10:].min() > 200
    assert shown[:, :6].max() < 55


def test_sixteen_bits_become_eight_by_scale(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = load_images(options(tmp_path, channels=1)).pixels[0, ..., 0]
    np.testing.assert_array_equal(pixels.flatten(), np.arange(256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_of_picture_is_read(mode):
    for channels in (1, 3, 4):
        assert fit(Image.new(mode, (20, 20)), 16, channels).shape == (16, 16, channels)


def test_a_picture_that_fits_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(fit(Image.fromarray(pixels), 16, 3), pixels)


def test_corrupt_files_are_named_and_left_out(folder):
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG and then nothing")
    pictures = load_images(options(folder))
    assert len(pictures) == 3
    assert pictures.labels.tolist() == [0, 0, 1]
    assert len(pictures.skipped) == 1
    assert pictures.skipped[0].startswith("a/broken.png: ")
    assert load_images(options(folder)).skipped == pictures.skipped


def test_a_set_of_nothing_but_corrupt_files_is_an_error(tmp_path):
    (tmp_path / "only.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of 1 images can be read; first: only\.png"):
        load_images(options(tmp_path))


def test_pictures_are_decoded_once_and_again_when_they_change(folder):
    decoded = []

    def prepared():
        decoded.clear()
        pictures = load_images(options(folder), lambda done, total: decoded.append(done))
        return pictures, bool(decoded)

    assert prepared()[1]
    assert not prepared()[1]
    Image.new("RGB", (16, 16), "blue").save(folder / "b/new.png")
    pictures, again = prepared()
    assert again
    assert len(pictures) == 4


def test_only_so_many_as_the_limit_are_taken(digits):
    pictures = load_images(options(digits, resolution=28, channels=1, limit=50))
    np.testing.assert_array_equal(pictures.pixels[..., 0], drawn_digits(600)[0][:50])


def test_known_data_sets_have_names_for_their_classes(digits):
    named = load_images(options(digits, name="fashion-mnist"))
    assert named.class_names[9] == "ankle-boot"
    assert load_images(options(digits)).class_names[9] == "9"
