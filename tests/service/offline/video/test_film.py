"""Films through small image-to-image models: frames, times, sound, resuming, damage."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from service.offline.halving import Stopped
from service.offline.reproduce import CannotReproduce, reproduce
from service.offline.video.film import FilmTask
from service.offline.video.film_job import SEGMENT_FRAMES, FilmJob, FilmLedger, fingerprint_of
from service.runtime.image_to_image import translate
from service.runtime.images.decoding import DecodedImage
from service.runtime.images.xmp import SourceType
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.video.film import FilmDamaged, FilmReader, NotAFilm
from service.runtime.video.metadata import source_type_of
from tests.support.exiftool import source_types
from tests.support.films import (
    ONSETS,
    content_of,
    drawn_frame,
    irregular,
    make_film,
    psnr,
    regular,
)
from tests.support.image_to_image_models import FILL, write_translators

FRAME_S = 1 / 30


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_translators(folder)
    return lambda name: Model(folder / name / "1", Provider.CPU, ExecutionPlan(2, 1, 4))


def run(
    model, film: Path, out: Path, stop_after: int | None = None, partial=False, mask=None, **fields
):
    """Run a job in this process; stop after some frames."""
    job = FilmJob(
        model=model.manifest.name,
        version="1",
        digest=model.digest,
        task=model.manifest.task,
        film=film.name,
        film_fingerprint=fingerprint_of(film),
        container=out.suffix[1:],
        quality=95,
        **fields,
    )
    ledger = FilmLedger(out, job)
    assert not ledger.is_complete()
    reader = FilmReader(film)
    seen = []
    try:
        return FilmTask(model, job, reader, ledger, mask).run(
            lambda done, total: seen.append((done, total)),
            lambda: stop_after is not None and bool(seen) and seen[-1][0] >= stop_after,
            partial=partial,
        )
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("source", "audio", "times", "target"),
    [
        ("mp4", "aac", regular(100), "mp4"),
        ("mkv", "flac", irregular(100), "mkv"),
        ("mkv", "flac", irregular(100), "mp4"),
        ("mp4", "aac", irregular(100), "webm"),
        ("webm", "libopus", regular(100), "webm"),
        ("mov", "pcm_s16le", regular(100), "mp4"),
    ],
)
def test_film_keeps_frames_times_and_sound(load, tmp_path, source, audio, times, target):
    codec = "libvpx-vp9" if source == "webm" else "libx264"
    film = make_film(tmp_path / f"film.{source}", times, codec=codec, audio=audio)
    before = content_of(film)
    model = load("larger")
    out = tmp_path / f"out.{target}"
    summary = run(model, film, out)
    after = content_of(out)
    assert summary.frames == len(after.times) == 100
    assert summary.bytes == out.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {film.name, out.name}
    # Matroska and WebM count in milliseconds.
    tolerance = 1e-6 if source != "mkv" and target == "mp4" else 0.0011
    np.testing.assert_allclose(after.times, before.times, atol=tolerance)
    assert len(after.onsets) == len(ONSETS)
    np.testing.assert_allclose(after.onsets, before.onsets, atol=FRAME_S / 2)
    assert abs(after.sound_end - before.sound_end) < FRAME_S
    reader = FilmReader(film)
    for frame in reader.frames():
        if frame.number % 33 == 0:
            expected = translate(model, DecodedImage(frame.pixels, None))
            assert psnr(after.frames[frame.number], expected) > 36
    reader.close()


def test_upscaled_film_resembles_bicubic_upscaling(load, tmp_path):
    film = make_film(tmp_path / "film.mp4", regular(10))
    run(load("tinting"), film, tmp_path / "out.mp4")
    for number, frame in enumerate(content_of(tmp_path / "out.mp4").frames):
        image = Image.fromarray(drawn_frame(number)).resize((128, 96), Image.Resampling.BICUBIC)
        expected = np.asarray(image) * np.array([0.5, 1, 1])
        assert psnr(frame, expected) > 28


def test_sound_that_starts_late_stays_late(load, tmp_path):
    film = make_film(tmp_path / "film.mp4", regular(100), audio="aac", audio_delay=0.3)
    run(load("larger"), film, tmp_path / "out.mp4")
    onsets = content_of(tmp_path / "out.mp4").onsets
    np.testing.assert_allclose(onsets, np.array(ONSETS) + 0.3, atol=FRAME_S)


def test_film_that_starts_late_starts_at_zero(load, tmp_path):
    times = [each + 45_000 for each in regular(100)]
    film = make_film(tmp_path / "film.ts", times, audio="aac", audio_delay=0.5)
    run(load("larger"), film, tmp_path / "out.mp4")
    after = content_of(tmp_path / "out.mp4")
    np.testing.assert_allclose(after.times, np.arange(100) / 30, atol=FRAME_S)
    np.testing.assert_allclose(np.diff(after.times), 1 / 30, atol=1e-4)
    np.testing.assert_allclose(after.onsets, ONSETS, atol=FRAME_S)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_film_becomes_upright(load, tmp_path, rotation):
    film = make_film(tmp_path / "film.mp4", regular(4), rotation=rotation)
    run(load("larger"), film, tmp_path / "out.mp4")
    upright = np.rot90(drawn_frame(0), rotation // 90)
    expected = upright.repeat(2, 0).repeat(2, 1)
    frame = content_of(tmp_path / "out.mp4").frames[0]
    assert frame.shape == expected.shape
    assert psnr(frame[8:-8, 8:-8], expected[8:-8, 8:-8]) > 20
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert next(out.decode(video=0)).rotation == 0


@pytest.mark.parametrize(("matrix", "full_range"), [(1, False), (5, False), (1, True)])
def test_color_is_kept(load, tmp_path, matrix, full_range):
    film = make_film(tmp_path / "film.mp4", regular(4), matrix=matrix, full_range=full_range)
    run(load("colored"), film, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        frame = next(out.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (matrix, 2 if full_range else 1)
        # The model inverts.
        pixels = frame.to_ndarray(format="rgb24")
    assert np.abs((255 - pixels.astype(int)) - drawn_frame(0)).mean() < 4


def test_interrupted_film_resumes_to_the_same_bytes(load, tmp_path):
    film = make_film(tmp_path / "film.mp4", irregular(110), audio="aac")
    model = load("larger")
    run(model, film, tmp_path / "whole.mp4")
    out = tmp_path / "out.mp4"
    for stop_after in (20, 60):
        with pytest.raises(Stopped):
            run(model, film, out, stop_after)
    assert not out.exists()
    parts = tmp_path / "out.mp4.parts"
    assert len(list(parts.glob("*.mkv"))) == 1
    assert not list(parts.glob(".*"))
    # A segment without its times does not count.
    (parts / "000001.mkv").write_bytes(b"half a segment")
    run(model, film, out)
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not parts.exists()


def test_metadata_identifies_the_job(load, tmp_path):
    film = make_film(tmp_path / "film.mp4", regular(3))
    model = load("softer")
    out = tmp_path / "out.mkv"
    run(model, film, out, direction="invert", resize=(30, 20))
    with av.open(str(out)) as result:
        comment = json.loads(result.metadata["COMMENT"].removeprefix("ganymede "))
    assert comment["digest"] == model.digest
    assert (comment["film"], comment["direction"]) == ("film.mp4", "invert")
    with pytest.raises(CannotReproduce, match=r"was made from the film film\.mp4"):
        reproduce(out, tmp_path)
    frames = content_of(out).frames
    assert frames.shape == (3, 20, 30, 3)
    small = Image.fromarray(255 - drawn_frame(0)).resize((30, 20), Image.Resampling.LANCZOS)
    assert np.abs(frames[0].astype(int) - np.asarray(small)).mean() < 6


def test_film_is_marked_as_a_composite(load, tmp_path):
    films = ("film.mp4", "film.mkv")
    for name in films:
        run(load("larger"), make_film(tmp_path / f"of {name}", regular(3)), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert source_type_of(content) == SourceType.COMPOSITE.uri
        # The mark of the input is not copied.
        again = tmp_path / f"again.{name}"
        run(load("softer"), tmp_path / name, again)
        assert source_type_of(again.read_bytes()) == SourceType.COMPOSITE.uri
        assert content_of(again).frames.shape[0] == 3
    found = source_types(tmp_path)
    assert {name: found[name] for name in films} == dict.fromkeys(films, SourceType.COMPOSITE.uri)


def test_inpaints_the_same_area_in_all_frames(load, tmp_path):
    film = make_film(tmp_path / "film.mp4", regular(3))
    mask = np.zeros((48, 64), np.uint8)
    mask[8:24, 8:40] = 255
    run(load("filled"), film, tmp_path / "out.mp4", mask=mask, boxes=((8, 8, 32, 16),))
    for number, frame in enumerate(content_of(tmp_path / "out.mp4").frames):
        assert np.abs(frame[12:20, 12:36].astype(int) - FILL).mean() < 6
        assert np.abs(frame[30:].astype(int) - drawn_frame(number)[30:]).mean() < 4


def test_says_what_is_left_out(load, tmp_path):
    film = make_film(tmp_path / "film.mkv", regular(30), audio="flac", subtitles=True)
    summary = run(load("larger"), film, tmp_path / "out.mp4")
    assert sorted(summary.notes) == [
        "left out: subtitle (subrip)",
        "sound encoded again: flac as aac",
    ]
    assert run(load("larger"), film, tmp_path / "out.mkv").notes == ()
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert [stream.type for stream in out.streams] == ["video", "audio", "subtitle"]


@pytest.fixture
def damaged(tmp_path):
    """A film of 120 frames, of which a packet near frame 70 is overwritten."""
    film = make_film(tmp_path / "film.mp4", regular(120), audio="aac")
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packet = [each for each in container.demux(video=0) if each.size][70]
        start, size = packet.pos, packet.size
    content[start : start + size] = b"\xff" * size
    film.write_bytes(content)
    return film


def test_damaged_film_keeps_what_is_done(load, damaged, tmp_path):
    model, out = load("larger"), tmp_path / "out.mp4"
    with pytest.raises(FilmDamaged, match=r"is damaged after frame \d\d: "):
        run(model, damaged, out)
    assert (tmp_path / "out.mp4.parts" / "000000.mkv").stat().st_size > 1000
    assert not out.exists()
    summary = run(model, damaged, out, partial=True)
    assert SEGMENT_FRAMES < summary.frames <= 71
    assert any("is damaged after frame" in note for note in summary.notes)
    assert len(content_of(out).times) == summary.frames


@pytest.mark.parametrize("name", ["film.webm", "film.mkv"])
def test_film_that_is_cut_off_is_an_error(load, tmp_path, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    film = make_film(tmp_path / name, regular(120), codec=codec)
    content = film.read_bytes()
    film.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(FilmDamaged, match=r"cut off or damaged|is damaged after frame"):
        run(load("larger"), film, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("film.mp4", lambda path: path.write_bytes(b""), "is not a film"),
        ("film.mkv", lambda path: path.write_text("hello\n" * 500), "is not a film"),
        ("film.mp4", lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"), "is an image"),
        ("film.mp4", lambda path: None, "cannot be read: No such file"),
        ("film.mp4", lambda path: path.mkdir(), "cannot be read"),
        ("film.mp4", lambda path: make_film(path, []), "contains nothing"),
    ],
)
def test_file_without_frames_is_one_line(tmp_path, name, make, expected):
    make(tmp_path / name)
    with pytest.raises(NotAFilm, match=expected) as error:
        FilmReader(tmp_path / name)
    assert "\n" not in str(error.value)


def test_sound_alone_is_not_a_film(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as film:
        stream = film.add_stream("aac", rate=48_000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        frame.sample_rate = 48_000
        film.mux(stream.encode(frame))
        film.mux(stream.encode())
    with pytest.raises(NotAFilm, match="has no video: it contains audio"):
        FilmReader(path)
