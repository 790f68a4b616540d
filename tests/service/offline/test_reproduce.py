"""`ganymede reproduce`, on files that the real service made."""

import io
import json
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.offline.reproduce import CannotReproduce, reproduce
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
    "walk.webp": ("interpolate", {"sources": [1, 2, 3], "frames": 20, "fps": 12}),
    "walk.gif": ("interpolate", {"sources": [1, {"w": W_VALUES}], "frames": 6}),
    "walk.png": (
        "interpolate",
        {"model": "cut", "sources": [1, 2], "frames": 6, "loop": True, "class": "cat"},
    ),
}


def made(client, folder, name):
    route, body = REQUESTS[name]
    form = name.partition(".")[2]
    body = {"model": "painted-classes", "format": form} | body
    answer = client.post(f"/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    path = folder / name
    path.write_bytes(answer.content)
    return path


@pytest.mark.parametrize("name", REQUESTS)
def test_every_kind_of_file_is_made_again_to_the_last_byte(
    drawn_server, drawn_repository, tmp_path, name
):
    with drawn_server.client() as client:
        path = made(client, tmp_path, name)
    result = reproduce(path, drawn_repository)
    assert result.equal
    assert result.identical
    assert result.remade == path.read_bytes()


def test_a_frame_of_an_archive_is_made_again_alone(drawn_server, drawn_repository, tmp_path):
    body = {"model": "cut", "sources": [1, 2], "class": "cat", "frames": 5, "format": "zip"}
    with drawn_server.client() as client:
        archive = zipfile.ZipFile(io.BytesIO(client.post("/v1/interpolate", json=body).content))
    archive.extractall(tmp_path)
    for path in sorted(tmp_path.glob("*.png")):
        assert reproduce(path, drawn_repository).identical


def test_the_command_says_what_it_found(drawn_server, drawn_repository, tmp_path):
    with drawn_server.client() as client:
        good = made(client, tmp_path, "seed.png")
    image = Image.open(good)
    pixels = np.array(image)
    # Written again by something else: other bytes, the same pixels.
    info = PngInfo()
    info.add_text("ganymede", image.text["ganymede"])
    image.save(tmp_path / "resaved.png", pnginfo=info)
    pixels[3, 4, 1] ^= 8
    Image.fromarray(pixels).save(tmp_path / "touched.png", pnginfo=info)

    command = ganymede("reproduce", "--models", drawn_repository)
    done = subprocess.run(
        [*command, "seed.png", "resaved.png", "--out", "again"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "seed.png: identical, byte for byte",
        "resaved.png: equal in every pixel",
    ]
    assert (tmp_path / "again" / "seed.png").read_bytes() == good.read_bytes()
    done = subprocess.run(
        [*command, "touched.png", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (result,) = json.loads(done.stdout)
    assert (result["different_pixels"], result["largest_difference"]) == (1, 8)


def say(path, **said):
    info = PngInfo()
    info.add_text("ganymede", json.dumps(said))
    Image.new("RGB", (24, 24)).save(path, pnginfo=info)
    return path


def test_what_cannot_be_made_again_is_one_clear_error(drawn_server, drawn_repository, tmp_path):
    def error(path) -> str:
        with pytest.raises(CannotReproduce) as caught:
            reproduce(path, drawn_repository)
        return str(caught.value)

    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    assert "has no Ganymede metadata" in error(tmp_path / "plain.png")
    (tmp_path / "words.png").write_text("no picture")
    assert "cannot be read: it is not a valid image" in error(tmp_path / "words.png")
    assert "cannot be read: No such file" in error(tmp_path / "missing.png")
    identity = {"model": "cut", "version": "1", "digest": "sha256:0"}
    assert "another digest" in error(say(tmp_path / "a.png", **identity, seed=1))
    elsewhere = identity | {"model": "elsewhere"}
    assert "elsewhere@1, which is not in" in error(say(tmp_path / "b.png", **elsewhere, seed=1))
    outside = identity | {"model": "..", "version": "x"}
    assert "which is not in" in error(say(tmp_path / "c.png", **outside, seed=1))
    with drawn_server.client() as client:
        digest = client.get("/v1/models/cut").json()["digest"]
    identity["digest"] = digest
    for wrong in ({}, {"seed": -1}, {"seed": "a"}, {"seed": 1, "class": "cow"}, {"z": "?"}):
        assert "invalid metadata" in error(say(tmp_path / "d.png", **identity, **wrong))
    walk = {"sources": [], "frames": 10**9, "loop": False, "space": "z", "path": "linear"}
    assert "invalid metadata" in error(say(tmp_path / "e.png", **identity, walk=walk, fps=1))
