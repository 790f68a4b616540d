"""`ganymede reproduce`, with files from the real service."""

import io
import json
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.offline.reproduce import CannotReproduce, reproduce
from service.runtime.images import png, xmp
from tests.support.drawn_models import W, Z
from tests.support.servers import ganymede

W_VALUES = [0.25] * W
REQUESTS = {
    "seed.png": ("generate", {"seed": 7, "class": "dog", "truncation": 0.5}),
    "seed.jpeg": ("generate", {"seed": 7}),
    "seed.webp": ("generate", {"seed": 7}),
    "z.png": ("generate", {"z": [[0.5] * Z], "class": 1}),
    "w.webp": ("generate", {"w": [W_VALUES]}),
    "blend.png": ("generate", {"model": "cut", "seed": 3, "blend": {"cat": 1, "dog": 2}}),
    "mix.png": ("mix-styles", {"rows": [1], "columns": [{"w": W_VALUES}]}),
    "weights.png": ("mix-styles", {"rows": [1], "columns": [2], "layers": {"fine": 0.3}}),
    "grid.webp": ("mix-styles", {"rows": [1, 2], "columns": [5, 6, 7]}),
    "grid.jpeg": ("mix-styles", {"rows": [1, 2], "columns": [5]}),
    "interpolation.webp": ("interpolate", {"sources": [1, 2, 3], "frames": 20, "fps": 12}),
    "walk.mp4": ("interpolate", {"sources": [1, 2], "frames": 5, "scale": 3, "quality": 70}),
    "walk.webm": ("interpolate", {"sources": [1, 2], "frames": 5}),
    "enlarged.webp": (
        "interpolate",
        {"sources": [1, 2], "frames": 5, "scale": 2, "filter": "bicubic"},
    ),
    "interpolation.gif": ("interpolate", {"sources": [1, {"w": W_VALUES}], "frames": 6}),
    "interpolation.png": (
        "interpolate",
        {"model": "cut", "sources": [1, 2], "frames": 6, "loop": True, "class": "cat"},
    ),
}


def write_response(client, folder, name):
    """Send the request for the file `name`, write the response to it, and return its path."""
    route, body = REQUESTS[name]
    extension = name.partition(".")[2]
    body = {"model": "painted-classes", "format": extension} | body
    response = client.post(f"/v1/{route}", json=body)
    assert response.status_code == 200, response.text
    path = folder / name
    path.write_bytes(response.content)
    return path


@pytest.mark.parametrize("name", REQUESTS)
def test_reproduces_files_byte_for_byte(drawn_server, drawn_repository, tmp_path, name):
    with drawn_server.client() as client:
        path = write_response(client, tmp_path, name)
    result = reproduce(path, drawn_repository)
    assert result.equal
    assert result.identical
    assert result.regenerated == path.read_bytes()


def without_mark(content):
    """Return the file as versions without the mark wrote it."""
    if content.startswith(png.SIGNATURE):
        parts = (part for part in png.chunks(content) if part[0] != b"iTXt")
        return png.SIGNATURE + b"".join(png.chunk(*part) for part in parts)
    mark = {b"GIF": xmp.gif_extension, b"\0\0\0": xmp.mp4_box}[content[:3]]
    return content.replace(mark(xmp.SourceType.GENERATED), b"")


@pytest.mark.parametrize("name", ["seed.png", "interpolation.gif", "interpolation.png", "walk.mp4"])
def test_reproduces_files_of_earlier_versions(drawn_server, drawn_repository, tmp_path, name):
    with drawn_server.client() as client:
        path = write_response(client, tmp_path, name)
    marked = path.read_bytes()
    path.write_bytes(without_mark(marked))
    assert len(path.read_bytes()) < len(marked) - 390
    result = reproduce(path, drawn_repository)
    assert result.identical
    assert xmp.read_source_type(result.regenerated) is None


def test_reproduces_single_frame_of_zip(drawn_server, drawn_repository, tmp_path):
    body = {"model": "cut", "sources": [1, 2], "class": "cat", "frames": 5, "format": "zip"}
    with drawn_server.client() as client:
        archive = zipfile.ZipFile(io.BytesIO(client.post("/v1/interpolate", json=body).content))
    archive.extractall(tmp_path)
    for path in sorted(tmp_path.glob("*.png")):
        assert reproduce(path, drawn_repository).identical


def test_command_reports_differences(drawn_server, drawn_repository, tmp_path):
    with drawn_server.client() as client:
        original = write_response(client, tmp_path, "seed.png")
    image = Image.open(original)
    pixels = np.array(image)
    # Other bytes with the same pixels.
    info = PngInfo()
    info.add_text("ganymede", image.text["ganymede"])
    image.save(tmp_path / "resaved.png", pnginfo=info)
    pixels[3, 4, 1] ^= 8
    Image.fromarray(pixels).save(tmp_path / "modified.png", pnginfo=info)

    command = ganymede("reproduce", "--models", drawn_repository)
    process = subprocess.run(
        [*command, "seed.png", "resaved.png", "--out", "regenerated"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines() == [
        "seed.png: identical, byte for byte",
        "resaved.png: equal in every pixel",
    ]
    assert (tmp_path / "regenerated" / "seed.png").read_bytes() == original.read_bytes()
    process = subprocess.run(
        [*command, "modified.png", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    (result,) = json.loads(process.stdout)
    assert (result["different_pixels"], result["largest_difference"]) == (1, 8)


def write_metadata(path, **metadata):
    """Write a black image with this metadata, and return its path."""
    info = PngInfo()
    info.add_text("ganymede", json.dumps(metadata))
    Image.new("RGB", (24, 24)).save(path, pnginfo=info)
    return path


def test_explains_why_file_cannot_be_reproduced(drawn_server, drawn_repository, tmp_path):
    def error(path) -> str:
        with pytest.raises(CannotReproduce) as caught:
            reproduce(path, drawn_repository)
        return str(caught.value)

    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    assert "has no Ganymede metadata" in error(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("not an image")
    assert "cannot be read: it is not a valid image" in error(tmp_path / "text.png")
    assert "cannot be read: No such file" in error(tmp_path / "missing.png")
    identity = {"model": "cut", "version": "1", "digest": "sha256:0"}
    assert "another digest" in error(write_metadata(tmp_path / "a.png", **identity, seed=1))
    unknown = identity | {"model": "unknown"}
    assert "unknown@1, which is not in" in error(
        write_metadata(tmp_path / "b.png", **unknown, seed=1)
    )
    outside = identity | {"model": "..", "version": "x"}
    assert "which is not in" in error(write_metadata(tmp_path / "c.png", **outside, seed=1))
    with drawn_server.client() as client:
        digest = client.get("/v1/models/cut").json()["digest"]
    identity["digest"] = digest
    for invalid in ({}, {"seed": -1}, {"seed": "a"}, {"seed": 1, "class": "cow"}, {"z": "?"}):
        assert "invalid metadata" in error(
            write_metadata(tmp_path / "d.png", **identity, **invalid)
        )
    walk = {"sources": [], "frames": 10**9, "loop": False, "space": "z", "path": "linear"}
    assert "invalid metadata" in error(
        write_metadata(tmp_path / "e.png", **identity, walk=walk, fps=1)
    )
