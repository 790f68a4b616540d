"""OpenAI's unmodified SDK for Node against the real service, and its example in docs/http.md.

The package is installed once, by tests/node/package-lock.json, which names no registry: npm uses
the configured one. The tests are skipped without Node or npm, and, except in CI, if the package
cannot be installed.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.documentation import ROOT, blocks
from tests.support.drawn_models import write_models
from tests.support.image_to_image_models import write_translators
from tests.support.latent_models import write_latent_models
from tests.support.responses import decode_image
from tests.support.servers import serving

NODE, NPM = shutil.which("node"), shutil.which("npm")
FOLDER = ROOT / "tests" / "node"
DOCUMENT = Path("docs/http.md")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (NODE and NPM), reason="Node and npm are not installed"),
]


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder with the installed package."""
    installed = FOLDER / "node_modules" / ".package-lock.json"
    with (FOLDER / ".lock").open("w") as lock:
        # Other processes of the tests wait here.
        fcntl.flock(lock, fcntl.LOCK_EX)
        locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
        wanted = {name: entry["version"] for name, entry in locked.items() if name}
        if not _has(installed, wanted):
            command = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            process = subprocess.run(
                command, cwd=FOLDER, capture_output=True, text=True, check=False
            )
            if process.returncode and not os.environ.get("CI"):
                pytest.skip(f"npm ci failed: {process.stderr[-500:]}")
            assert process.returncode == 0, process.stderr
    return FOLDER


def _has(installed: Path, wanted: dict[str, str]) -> bool:
    if not installed.exists():
        return False
    found = json.loads(installed.read_text())["packages"]
    return {name: entry["version"] for name, entry in found.items()} == wanted


def node(*arguments: str | Path, folder: Path) -> str:
    process = subprocess.run(
        [NODE, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def pixels(image) -> np.ndarray:
    return decode_image(base64.b64decode(image["b64_json"]))


def test_every_method_works(package, tmp_path):
    models = tmp_path / "models"
    write_models(models)
    write_latent_models(models)
    write_translators(models)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    with serving(models, env={"GANYMEDE_PLAN": "default"}) as server:
        script = package / "sdk.mjs"
        results = json.loads(node(script, server.url, tmp_path / "image.png", folder=package))
        assert "Traceback" not in server.logged()

    assert {"painted", "softer", "movable"} <= set(results["models"])
    generated = results["generated"]
    assert (generated["size"], generated["resized_from"]) == ("48x36", "24x24")
    assert [pixels(each).shape for each in generated["data"]] == [(36, 48, 3)] * 2
    assert [each["type"] for each in results["streamed"]] == ["image_generation.completed"] * 3
    assert [each["seed"] for each in results["streamed"]] == [7, 8, 9]

    for response, count in ((results["edited"], 1), (results["several"], 2)):
        assert response["prompt"] == "direction"
        assert len(response["data"]) == count
        for each in response["data"]:
            np.testing.assert_array_equal(pixels(each), 255 - image)
    first, error = results["editStream"]
    assert (first["type"], error["name"]) == ("image_edit.completed", "APIError")
    assert (error["code"], error["param"]) == ("not_a_picture", "image.1")
    assert results["varied"]["variation"]["method"] == "inversion"
    assert [each["seed"] for each in results["varied"]["data"]] == [3, 4]

    failures = results["failures"]
    for name in ("model", "generate"):
        assert (failures[name]["name"], failures[name]["status"]) == ("NotFoundError", 404)
        assert failures[name]["code"] == "model_not_found"
        assert "painted" in failures[name]["message"]
    for name, param in (("size", "size"), ("mask", "mask.0")):
        assert (failures[name]["name"], failures[name]["status"]) == ("BadRequestError", 400)
        assert failures[name]["param"] == param


def test_example_in_the_documentation_runs(package, tmp_path):
    (block,) = [each for each in blocks(DOCUMENT) if each.language == "js"]
    models = tmp_path / "models"
    for name in ("stylegan2-flowers", "colorize-flowers"):
        shutil.copytree(ROOT / "models" / name, models / name)
    (tmp_path / "node_modules").symlink_to(package / "node_modules")
    with serving(models) as server:
        address = server.url.removeprefix("http://")
        script = tmp_path / "example.mjs"
        script.write_text(block.text.replace("localhost:3000", address))
        printed = node(script, folder=tmp_path).splitlines()
    assert printed == ["image_generation.completed 64x64"] * 2 + ["64x64 nothing"]
