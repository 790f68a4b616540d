"""Videos of runs are decoded, and their frames compared with the sample sheets."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from service.runtime.errors import UserError
from service.runtime.images.xmp import SourceType, read_source_type
from training.preview.grids import save_sheet
from training.preview.timelapse import (
    Frames,
    NoSamples,
    Timing,
    find_sheets,
    gaps,
    write_timelapse,
)

COLORS = {100: (200, 30, 30), 250: (30, 200, 30), 1000: (30, 30, 200)}


def write_sheet(folder, images, size=(240, 120), color=None):
    folder.mkdir(exist_ok=True)
    path = folder / f"{images:010}.png"
    Image.new("RGB", size, color or COLORS[images]).save(path)
    return path


@pytest.fixture
def samples(tmp_path):
    for images in COLORS:
        write_sheet(tmp_path / "samples", images)
    return tmp_path / "samples"


def decoded(path):
    if path.suffix in (".mp4", ".webm"):
        av = pytest.importorskip("av", reason="needs the extra video")
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(path) as image:
        return [np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(image)]


def shown_color(frame):
    """The mean color of the middle of the sheet, which has 240 of the frame's rows."""
    return frame[100:140, 200:280].reshape(-1, 3).mean(0)


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp", "png"])
def test_each_sheet_is_a_frame_and_the_last_one_stays(samples, tmp_path, suffix):
    if suffix in ("mp4", "webm"):
        pytest.importorskip("av", reason="needs the extra video")
    sheets, left_out = find_sheets(samples)
    assert not left_out
    frames, out = Frames(sheets, 1000), tmp_path / f"run.{suffix}"
    seen = []
    write_timelapse(frames, Timing(2, hold=1), out, "run", lambda *counts: seen.append(counts))
    pixels = decoded(out)
    # The hold of a GIF may be joined to the frame that it repeats.
    assert len(pixels) == 5
    assert {each.shape for each in pixels} == {(frames.height, frames.width, 3)}
    for frame, color in zip(pixels, [*COLORS.values(), *[COLORS[1000]] * 2], strict=True):
        # Video has chroma of half the size, and rounds.
        assert np.abs(shown_color(frame) - color).max() < 6
    assert seen == [(1, 5), (2, 5), (3, 5)]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_timelapse_has_the_mark_of_its_sheets(tmp_path):
    for shows_inputs in (False, True):
        folder = tmp_path / str(shows_inputs)
        folder.mkdir()
        save_sheet(Image.new("RGB", (32, 32)), folder / "10.png", shows_inputs=shows_inputs)
        out = tmp_path / "out.gif"
        frames = Frames(find_sheets(folder)[0], 10)
        write_timelapse(frames, Timing(10, 0.0), out, "run")
        expected = SourceType.of_sheet(shows_inputs=shows_inputs).uri
        assert read_source_type(out.read_bytes()) == expected


def test_caption_shows_the_images_seen_and_the_share_of_the_run(samples):
    sheets, _ = find_sheets(samples)
    first, second, third = Frames(sheets, 2000)
    height = first.shape[0]
    # Below the sheet, which is enlarged to 480×240 pixels: a bar, then the number.
    assert height > 240
    for frame, images in ((first, 100), (second, 250), (third, 1000)):
        filled = (frame[242] == (99, 102, 241)).all(1).sum()
        assert filled == round(480 * images / 2000)
    captions = [frame[246:] for frame in (first, second, third)]
    assert not np.array_equal(captions[0], captions[1])
    assert all((caption > 200).any() for caption in captions)


def test_sheets_of_other_sizes_are_fitted_into_the_largest(tmp_path):
    folder = tmp_path / "samples"
    write_sheet(folder, 100, (60, 30))
    write_sheet(folder, 250, (300, 300))
    Image.new("L", (600, 600), 77).save(folder / "0000001000.png")
    frames = Frames(find_sheets(folder)[0], 1000)
    pixels = list(frames)
    assert (frames.width, {each.shape[1] for each in pixels}) == (600, {600})
    small = pixels[0][:600]
    rows = (np.abs(small - np.array(COLORS[100])).max(2) < 5).any(1).nonzero()[0]
    # 60×30 in 600×600: the full width, and half of the height in the middle.
    assert (rows[0], rows[-1]) == (150, 449)
    assert np.array_equal(pixels[1][300, 300], COLORS[250])
    assert np.array_equal(pixels[2][300, 300], [77] * 3)


def test_transparent_sheets_are_on_white(tmp_path):
    (tmp_path / "samples").mkdir()
    Image.new("RGBA", (480, 480), (0, 0, 0, 0)).save(tmp_path / "samples" / "0000000100.png")
    (frame,) = Frames(find_sheets(tmp_path / "samples")[0], 100)
    assert np.array_equal(frame[240, 240], [255] * 3)


def test_damaged_and_other_files_are_left_out_and_said(samples):
    path = write_sheet(samples, 500, color=(1, 2, 3))
    path.write_bytes(path.read_bytes()[:60])
    (samples / "0000000600.png").write_bytes(b"")
    (samples / "notes.png").write_bytes(b"text")
    (samples / ".0000000700.png.12").write_bytes(b"being written")
    sheets, left_out = find_sheets(samples)
    assert [sheet.images for sheet in sheets] == [100, 250, 1000]
    assert len(left_out) == 3
    assert "0000000500.png: cannot be read" in left_out[0]
    assert "0000000600.png: cannot be read" in left_out[1]
    assert left_out[2].endswith("notes.png: not a sample sheet")


def test_sheet_that_vanishes_repeats_the_one_before(samples):
    frames = Frames(find_sheets(samples)[0], 1000)
    (samples / "0000000250.png").unlink()
    first, second, _ = frames
    assert np.array_equal(first, second)


def test_missing_sheets_are_found():
    def sheets(*images):
        return [type("Sheet", (), {"images": each}) for each in images]

    assert gaps(sheets(100, 200, 300), 100) == []
    assert gaps(sheets(100, 500, 600), 100) == ["no sample sheet between 100 and 500 images"]
    assert gaps(sheets(400), 100) == ["no sample sheet between 0 and 400 images"]


@pytest.mark.parametrize("seconds", [0.1, 3.0, 20.0])
def test_duration_is_the_length_of_the_film(seconds):
    timing = Timing.of_duration(seconds, 40, hold=2.0)
    assert timing.frames(40) / timing.fps == pytest.approx(seconds)


def test_folder_without_sheets_is_one_line(tmp_path):
    with pytest.raises(NoSamples, match="has no sample sheets"):
        find_sheets(tmp_path / "missing")
    (tmp_path / "0000000100.png").write_bytes(b"no image")
    with pytest.raises(NoSamples, match=r"has no sample sheets; .*cannot be read"):
        find_sheets(tmp_path)


def test_failed_write_keeps_the_existing_file(samples, tmp_path):
    out = tmp_path / "run.gif"
    out.write_bytes(b"the film of yesterday")

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_timelapse(Frames(find_sheets(samples)[0], 1000), Timing(8, 1), out, "run", fail)
    assert out.read_bytes() == b"the film of yesterday"
    with pytest.raises(UserError, match=r"\.mp4, \.webm, \.gif"):
        write_timelapse(
            Frames(find_sheets(samples)[0], 1000), Timing(8, 1), out.with_suffix(".avi"), ""
        )
