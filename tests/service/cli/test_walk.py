"""`ganymede walk` as a user runs it."""

import io
import json
import subprocess

import av
import numpy as np
import pytest
from PIL import Image

from service.runtime.images.encoding import read_provenance
from tests.support.drawn_models import SIZE
from tests.support.image_to_image_models import write_translators
from tests.support.responses import npy_pixels
from tests.support.servers import ganymede


@pytest.fixture
def walk(drawn_repository):
    def run(out, *flags, seeds="1,5", code=0) -> subprocess.CompletedProcess[str]:
        command = ganymede("walk", "painted", "--models", drawn_repository, "--seeds", seeds)
        process = subprocess.run(
            [*command, "--out", str(out), *flags],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert process.returncode == code, process.stdout + process.stderr
        assert "Traceback" not in process.stderr
        return process

    return run


def test_an_image_to_image_model_is_refused(tmp_path):
    write_translators(tmp_path / "models")
    name = next(iter((tmp_path / "models").iterdir())).name
    command = ganymede("walk", name, "--models", tmp_path / "models", "--seeds", "1,2")
    process = subprocess.run(
        [*command, "--out", str(tmp_path / "walk.gif")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 2
    assert f"MODEL: {name} takes images and has no latent space" in process.stderr
    assert "Traceback" not in process.stderr


def test_frames_are_those_of_the_route(walk, drawn_server, tmp_path):
    flags = ["--frames", "9", "--fps", "10", "--loop", "--path", "spherical"]
    walk(tmp_path / "walk.npy", *flags)
    walk(tmp_path / "frames", *flags)
    walk(tmp_path / "walk.gif", *flags, "--scale", "2")
    body = {"model": "painted", "sources": [1, 5], "frames": 9, "fps": 10, "loop": True}
    body |= {"path": "spherical"}
    with drawn_server.client() as client:
        served = npy_pixels(client.post("/v1/interpolate", json={**body, "format": "npy"}))
        gif = client.post("/v1/interpolate", json={**body, "format": "gif", "scale": 2})
    np.testing.assert_array_equal(np.load(tmp_path / "walk.npy"), served)
    assert (tmp_path / "walk.gif").read_bytes() == gif.content
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"{i}.png" for i in range(9)]
    images = [Image.open(tmp_path / "frames" / name) for name in names]
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), served)
    assert read_provenance(images[1])["from"] == {"seed": 1}


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_writes_a_video(walk, drawn_server, tmp_path, suffix):
    out = tmp_path / "new" / f"walk.{suffix}"
    process = walk(out, "--frames", "20", "--scale", "4", "--json")
    report = json.loads(process.stdout)
    assert (report["frames"], report["bytes"]) == (20, out.stat().st_size)
    with av.open(out) as film:
        frames = list(film.decode(video=0))
        assert film.streams.video[0].average_rate == 30
    assert [(frame.width, frame.height) for frame in frames] == [(4 * SIZE, 4 * SIZE)] * 20
    assert frames[-1].time == pytest.approx(19 / 30, abs=0.001)
    body = {"model": "painted", "sources": [1, 5], "frames": 20, "fps": 30, "scale": 4}
    with drawn_server.client() as client:
        served = client.post("/v1/interpolate", json={**body, "format": suffix})
    # Only the places of the index and the frames in an MP4 differ.
    with av.open(io.BytesIO(served.content)) as film:
        for mine, theirs in zip(frames, film.decode(video=0), strict=True):
            np.testing.assert_array_equal(mine.to_ndarray(), theirs.to_ndarray())


def test_keeps_existing_files(walk, tmp_path):
    out = tmp_path / "walk.gif"
    out.write_bytes(b"mine")
    assert "exists; use another name" in walk(out, "--frames", "4", code=2).stderr
    assert out.read_bytes() == b"mine"
    walk(out, "--frames", "4", "--overwrite")
    assert Image.open(out).n_frames == 4
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.png").write_bytes(b"mine")
    assert "is not empty" in walk(tmp_path / "frames", code=2).stderr
    (tmp_path / "walk.mp4").mkdir()
    assert "walk.mp4 is a folder" in walk(tmp_path / "walk.mp4", code=2).stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "flags", "seeds", "expected"),
    [
        ("walk.mov", [], "1,2", "--out: expected a folder or a file that ends in .mp4"),
        ("walk.gif", [], "1,x", "--seeds: expected seeds separated by commas"),
        ("walk.gif", [], "1", "--seeds: expected at least 2, got 1"),
        ("walk.gif", [], "1,4294967296", "--seeds: expected 0 to 4294967295, got 4294967296"),
        ("walk.zip", ["--scale", "3"], "1,2", "--scale: only for animations and videos"),
    ],
)
def test_bad_input_is_one_line(walk, tmp_path, name, flags, seeds, expected):
    process = walk(tmp_path / name, *flags, seeds=seeds, code=2)
    assert expected in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
