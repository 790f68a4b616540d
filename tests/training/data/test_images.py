import shutil

import numpy as np
import pytest
from PIL import Image

from training.data.images import DataOptions, fit, load_images
from training.data.sources import DataError


def options(path, **changes) -> DataOptions:
    return DataOptions(path=str(path), **({"resolution": 16, "channels": 3} | changes))


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "set/a/wide.png")
    Image.new("L", (20, 40), 128).save(tmp_path / "set/a/gray.png")
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(tmp_path / "set/b/clear.png")
    return tmp_path / "set"


def test_crops_and_resizes_images_with_labels(folder):
    data = load_images(options(folder))
    assert data.pixels.shape == (3, 16, 16, 3)
    assert data.class_names == ("a", "b")
    assert data.labels.tolist() == [0, 0, 1]
    gray, wide, clear = data.pixels
    assert (gray == 128).all()
    assert (wide == (255, 0, 0)).all()
    assert (clear == 255).all()


def test_converts_to_requested_channels(folder):
    assert load_images(options(folder, channels=1)).pixels.shape == (3, 16, 16, 1)
    rgba = load_images(options(folder, channels=4)).pixels
    assert rgba.shape == (3, 16, 16, 4)
    assert (rgba[2, ..., 3] == 0).all()


def test_center_crop_is_downscaled_without_aliasing():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 32:96:2] = 255  # The center square is half white, in stripes of one pixel.
    small = fit(Image.fromarray(stripes), 8, 3)
    assert small.shape == (8, 8, 3)
    # Without a filter the result would be black or white; only the border may differ from gray.
    assert abs(small.astype(int) - 127).max() <= 16
    assert abs(small[:, 1:-1].astype(int) - 127).max() <= 6


def test_applies_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 90° clockwise for display.
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "rotated.jpg", exif=exif, quality=95)
    upright = load_images(options(tmp_path)).pixels[0]
    assert upright[:, 10:].min() > 200
    assert upright[:, :6].max() < 55


def test_scales_16_bits_to_8(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = load_images(options(tmp_path, channels=1)).pixels[0, ..., 0]
    np.testing.assert_array_equal(pixels.flatten(), np.arange(256))


def test_float_and_32_bit_images_are_scaled_and_reported(tmp_path):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray((ramp * 4095).astype(np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray((ramp * 255).astype(np.uint8)).save(tmp_path / "plain.tif")
    for _ in range(2):  # The second time, from the cache.
        data = load_images(options(tmp_path, channels=1))
        for pixels in data.pixels[..., 0]:
            assert np.abs(pixels.flatten().astype(int) - np.arange(256)).max() <= 1
        (line,) = [line for line in data.warnings() if line.startswith("scaled: ")]
        assert line.startswith("scaled: deep.tif and 1 more: 32-bit values")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_reads_every_pillow_mode(mode):
    for channels in (1, 3, 4):
        assert fit(Image.new(mode, (20, 20)), 16, channels).shape == (16, 16, channels)


def test_image_of_target_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(fit(Image.fromarray(pixels), 16, 3), pixels)


def test_skips_and_lists_corrupt_files(folder):
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG truncated")
    data = load_images(options(folder))
    assert len(data) == 3
    assert data.labels.tolist() == [0, 0, 1]
    assert len(data.skipped) == 1
    assert data.skipped[0].startswith("a/broken.png: ")
    assert load_images(options(folder)).skipped == data.skipped


def test_rejects_set_of_corrupt_files(tmp_path):
    (tmp_path / "only.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of 1 images can be read; first: only\.png"):
        load_images(options(tmp_path))


def test_decodes_again_only_after_changes(folder):
    decoded = []

    def load():
        decoded.clear()
        data = load_images(options(folder), lambda done, total: decoded.append(done))
        return data, bool(decoded)

    assert load()[1]
    assert not load()[1]
    Image.new("RGB", (16, 16), "blue").save(folder / "b/new.png")
    data, decoded_again = load()
    assert decoded_again
    assert len(data) == 4


def test_limit_selects_by_names_and_not_by_order(tmp_path):
    for style, level in {"first": 0, "second": 100}.items():
        (tmp_path / style).mkdir()
        for i in range(50):
            Image.new("L", (8, 8), level + i).save(tmp_path / style / f"{i:02}.png")
    data = load_images(options(tmp_path, resolution=8, channels=1, limit=20))
    numbers = [[], []]
    for label, level in zip(data.labels, data.pixels[:, 0, 0, 0], strict=True):
        numbers[label].append(level - 100 * label)
    # The same files of both classes, and not the first ones.
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 10
    assert max(numbers[0]) > 25
    assert data.notes == ("data.limit: 20 of 100, selected by a hash of their names",)
    again = load_images(options(tmp_path, resolution=8, channels=1, limit=100))
    assert len(again) == 100
    assert again.notes == ()


@pytest.mark.parametrize("group_bytes", [1, 3 * 8 * 8, 2**20])
def test_groups_of_images_keep_order_and_errors(tmp_path, monkeypatch, group_bytes):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.data.images._GROUP_BYTES", group_bytes)
    monkeypatch.setattr("training.data.images._CHUNK_BYTES", 7 * 8 * 8)
    (tmp_path / "data").mkdir()
    for i in range(40):
        Image.new("L", (8, 8), i).save(tmp_path / "data" / f"{i:02}.png")
    (tmp_path / "data" / "05.png").write_bytes(b"no image")
    shown: list[tuple[int, int]] = []
    data = load_images(
        DataOptions(path=str(tmp_path / "data"), resolution=8, channels=1),
        lambda done, total: shown.append((done, total)),
    )
    assert data.pixels[:, 0, 0, 0].tolist() == [i for i in range(40) if i != 5]
    assert [line.partition(":")[0] for line in data.skipped] == ["05.png"]
    assert shown[-1] == (40, 40)


def test_known_datasets_have_class_names(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").symlink_to(digits)
    named = load_images(DataOptions(name="fashion-mnist", resolution=16))
    assert named.class_names[9] == "ankle-boot"
    assert load_images(options(digits)).class_names[9] == "9"


def test_warnings_name_what_is_left_out(tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png", "emus/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "emus" / "1.png").write_bytes(b"not an image")
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("x")
    (tmp_path / "voids").mkdir()
    data = load_images(DataOptions(path=str(tmp_path), resolution=8))
    assert data.class_names == ("cats", "dogs", "emus")
    warnings = data.warnings()
    assert "the folder voids is empty" in warnings
    assert "the class emus has no readable image" in warnings
    assert "ignored: 0.txt and 1 more: is not an image" in warnings
    assert warnings[-1].startswith("skipped: emus/1.png: ")


def test_home_folder_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert len(load_images(DataOptions(path="~", resolution=8))) == 1


def test_classes_option_selects_and_orders(tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), i).save(tmp_path / name / "1.png")
    options = {"path": str(tmp_path), "resolution": 8, "channels": 1}
    data = load_images(DataOptions(**options, classes=["c", "a"]))
    assert data.class_names == ("c", "a")
    assert [
        (int(pixels.max()), label) for pixels, label in zip(data.pixels, data.labels, strict=True)
    ] == [(0, 1), (2, 0)]
    assert load_images(DataOptions(**options, classes=[])).labels is None


def test_fingerprint_depends_on_images_and_classes_not_on_path_or_container(folder, tmp_path):
    original = load_images(options(folder)).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", folder)
    for path in (moved, archive):
        assert load_images(options(path, resolution=8)).fingerprint == original
    (moved / "a").rename(moved / "c")
    renamed = load_images(options(moved)).fingerprint
    (moved / "c").rename(moved / "a")
    Image.new("RGB", (40, 20), "blue").save(moved / "a/wide.png")
    assert len({original, renamed, load_images(options(moved)).fingerprint}) == 3


def test_fingerprint_includes_damaged_images(folder):
    before = load_images(options(folder)).fingerprint
    (folder / "b/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = load_images(options(folder))
    assert len(data) == 3
    assert data.fingerprint != before


def test_path_replaces_name_title_license_and_class_names():
    named = DataOptions(name="fashion-mnist")
    assert (named.dataset_title, named.dataset_license) == ("Fashion-MNIST", "MIT")
    own = DataOptions(name="fashion-mnist", path="/photos/garden.zip")
    assert (own.dataset_title, own.dataset_license) == ("garden.zip", "unknown")
    assert own.known_name is None
    stated = DataOptions(path="hub:me/garden", license="CC0")
    assert (stated.dataset_title, stated.dataset_license) == ("me/garden", "CC0")
    assert DataOptions(path="x", title="My garden").dataset_title == "My garden"


def test_numbered_classes_of_own_data_keep_their_names(tmp_path):
    for name in "0123456789":
        (tmp_path / name).mkdir()
        Image.new("L", (28, 28), 10 * int(name)).save(tmp_path / name / "x.png")
    own = load_images(DataOptions(name="fashion-mnist", path=str(tmp_path)))
    assert own.class_names == tuple("0123456789")
