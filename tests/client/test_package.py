"""The distribution stands alone: it imports only its dependencies, and works where it is alone."""

import ast
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import service as ganymede_service
from ganymede_client import Client, __version__

CLIENT = Path(__file__).parents[2] / "client"
PROGRAM = """
import sys
from ganymede_client import Client
with Client(sys.argv[1]) as client:
    images = client.generate("biggan-flowers", seeds=[1, 2])
    images.grid().save(sys.argv[2])
assert not {"service", "training", "torch", "pydantic"} & set(sys.modules)
"""


TYPED = """
from typing import assert_type
from ganymede_client import Animation, AsyncClient, Client, Image, Images, Job, Model

def block(client: Client) -> None:
    images = client.generate("m", seeds=[1, 2])
    assert_type(images, Images)
    assert_type(images[0], Image)
    assert_type(client.animate("m", [1, images[0]]), Animation)
    assert_type(client.models(), list[Model])
    assert_type(client.wait_for_job("id", progress=print), Job)
    client.generate("m", sed=1)  # type: ignore[call-arg]
    client.generate(1)  # type: ignore[arg-type]
    client.animate("m", [1, 2], format="mkv")  # type: ignore[arg-type]

async def wait(client: AsyncClient) -> None:
    assert_type(await client.upscale("m", "image.png"), Images)
    assert_type(await client.cancel_job("id"), Job)
"""


@pytest.mark.slow
def test_methods_are_typed(tmp_path):
    """Wrong arguments are errors of the type checker, and results have their types."""
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "typed.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_package_imports_only_its_dependencies():
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    names = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    assert names == {"httpx", "numpy", "pillow"}
    allowed = {*sys.stdlib_module_names, "ganymede_client", "httpx", "numpy", "PIL"}
    for path in (CLIENT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 10))):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported = [node.module]
            for name in imported:
                assert name.partition(".")[0] in allowed, f"{path.name}: {name}"


def test_versions_of_client_and_service_are_equal():
    assert __version__ == ganymede_service.__version__


@pytest.mark.slow
def test_wheel_works_in_an_environment_of_its_own(service, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, CLIENT]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("ganymede_client-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", wheel]
    subprocess.run(install, check=True, env=environment)
    grid = tmp_path / "grid.png"
    subprocess.run([python, "-c", PROGRAM, service.url, grid], check=True, cwd=tmp_path)
    with Client(service.url) as client:
        expected = client.generate("biggan-flowers", seeds=[1, 2]).grid()
    assert np.array_equal(PIL.Image.open(grid), expected)
