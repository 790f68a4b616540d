import io
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest

from service.runtime.images.animation import AnimationSpec, write
from service.runtime.images.xmp import SourceType
from service.runtime.models.manifest import Manifest
from service.runtime.request_fields import InvalidRequest
from service.runtime.video import ffmpeg
from service.runtime.video.animation import VIDEO_WRITERS
from service.runtime.video.containers import container_of
from service.runtime.video.metadata import source_type_of
from service.runtime.video.walk_output import walk_output
from tests.support.exiftool import source_types

FRAMES = 12


def moving_square(channels=3, height=40, width=60) -> np.ndarray:
    """Return frames of a red (or gray) square that moves over blue (or black)."""
    frames = np.zeros((FRAMES, height, width, 3), np.uint8)
    frames[..., 2] = 200
    for i, frame in enumerate(frames):
        frame[8:24, 2 * i : 2 * i + 16] = (220, 40, 40)
    if channels == 1:
        return frames[..., :1]
    alpha = np.full_like(frames[..., :1], 255)
    return frames if channels == 3 else np.concatenate([frames, alpha], 3)


def spec_of(frames, fps=24.0) -> AnimationSpec:
    count, height, width, channels = frames.shape
    return AnimationSpec(
        count, height, width, channels, fps, {"model": "a"}, lambda i: {"frame": i}
    )


def decode(file: bytes) -> tuple[np.ndarray, list[float]]:
    with av.open(io.BytesIO(file)) as film:
        frames = list(film.decode(video=0))
    return (
        np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
        [frame.time for frame in frames],
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_video_shows_the_frames_at_their_times(kind, channels):
    pixels = moving_square(channels)
    file = write(VIDEO_WRITERS[kind](spec_of(pixels, 23.976)), pixels)
    frames, times = decode(file)
    expected = pixels.repeat(3, 3) if channels == 1 else pixels[..., :3]
    difference = frames.astype(int) - expected
    # Chroma has half the resolution, so edges differ more than areas.
    assert np.abs(difference).mean() < 3
    assert np.abs(difference[:, 30:, :].mean((0, 1, 2))).max() < 3
    np.testing.assert_allclose(times, np.arange(FRAMES) / 23.976, atol=0.0006)


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_odd_sides_are_extended_by_their_last_row_and_column(kind):
    pixels = moving_square(height=39, width=57)
    frames, _ = decode(write(VIDEO_WRITERS[kind](spec_of(pixels)), pixels))
    assert frames.shape == (FRAMES, 40, 58, 3)
    assert np.abs(frames[:, :39, :57].astype(int) - pixels).mean() < 3
    assert np.abs(frames[:, 39].astype(int) - frames[:, 38]).mean() < 3


def test_transparent_areas_are_white():
    pixels = moving_square(4)
    pixels[:, 30:, :, 3] = 0
    frames, _ = decode(write(VIDEO_WRITERS["mp4"](spec_of(pixels)), pixels))
    assert frames[:, 32:].min() > 245


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_equal_frames_give_equal_bytes(kind):
    pixels = moving_square()
    first, second = (write(VIDEO_WRITERS[kind](spec_of(pixels)), pixels) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("source_type", [*SourceType, None])
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_videos_carry_the_mark_of_generated_images(kind, source_type, tmp_path):
    pixels = moving_square()
    spec = replace(spec_of(pixels), source_type=source_type)
    file = write(VIDEO_WRITERS[kind](spec), pixels)
    uri = None if source_type is None else source_type.uri
    assert source_type_of(file) == uri
    assert len(decode(file)[0]) == FRAMES
    # The writer of files, which walks use.
    target = tmp_path / f"walk.{kind}"
    writer = VIDEO_WRITERS[kind](spec, target)
    assert write(writer, pixels) == b""
    assert source_type_of(target.read_bytes()) == uri
    assert source_types(tmp_path) == {target.name: uri}


@pytest.mark.parametrize("count", [2, 700])
def test_index_of_an_mp4_comes_before_its_frames(count):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    pixels = np.tile(pixels, (count // 7 + 1, 1, 1, 1))[:count]
    file = write(VIDEO_WRITERS["mp4"](spec_of(pixels)), pixels)
    assert file.index(b"moov") < file.index(b"mdat")
    assert len(decode(file)[0]) == count


def test_colors_are_tagged_as_bt709(tmp_path):
    pixels = moving_square()
    with av.open(io.BytesIO(write(VIDEO_WRITERS["mp4"](spec_of(pixels)), pixels))) as film:
        context = film.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert context.codec.name == "h264"
        assert not context.has_b_frames


def test_container_is_chosen_by_the_suffix():
    assert container_of("a/b.MP4").extension == "mp4"
    assert container_of("a.webm").media_type == "video/webm"
    assert container_of("a.png") is None


def test_service_does_not_import_pyav_until_a_video_is_made():
    code = "import sys, service.api.app, service.cli.main; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_extra_is_one_line(monkeypatch, drawn_repository):
    path = drawn_repository / "painted" / "1" / "model.json"
    manifest = Manifest.model_validate_json(path.read_bytes())
    # Python treats the package as not installed.
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidRequest, match="needs the extra video: pip install") as error:
        walk_output(manifest, "mp4", fps=24)
    assert error.value.field == "format"
    with pytest.raises(ffmpeg.VideoUnavailable, match=r"pip install 'ganymede\[video\]'"):
        ffmpeg.load()
    assert walk_output(manifest, "gif", fps=24).format == "gif"
