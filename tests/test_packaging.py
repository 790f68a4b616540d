"""A Bento is built and served, and the container's install steps run without a container engine."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.container import dockerfile_stages
from tests.support.servers import serving

ROOT = Path(__file__).parents[1]


def checkout(folder: Path) -> Path:
    """Copy the files that git tracks or would add, with their current content."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def assert_serves_an_image(server, model) -> None:
    with server.client() as client:
        response = client.post(
            "/v1/generate", json={"model": model, "seed": 7}, headers={"accept": "image/png"}
        )
        assert response.status_code == 200
        assert np.asarray(Image.open(io.BytesIO(response.content))).std() > 0


def assert_serves_the_pages(server) -> None:
    with server.client() as client:
        for page in ("/", "/docs"):
            scripts = re.findall(r'src="([^"]+\.js)"', client.get(page).text)
            assert scripts
            for script in scripts:
                assert client.get(f"/{script}").status_code == 200, script


@pytest.mark.slow
def test_bento_contains_and_serves_models(tmp_path, repository):
    source = checkout(tmp_path / "source")
    shutil.copytree(repository, source / "models", dirs_exist_ok=True)
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "bentoml")}
    environment.pop("PIP_CONSTRAINT", None)
    bentoml = str(Path(sys.executable).parent / "bentoml")
    subprocess.run(
        [bentoml, "build", "--version", "test", str(source)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )
    bento = tmp_path / "bentoml" / "bentos" / "ganymede" / "test"
    graphs = {
        path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*.onnx")
    }
    assert "models/dcgan-fashion/1/generator.onnx" in graphs
    assert not (bento / "src" / "tests").exists()
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "bentoml==1.4.39" in requirements
    assert "torch" not in requirements
    shutil.rmtree(source)
    command = [bentoml, "serve", str(bento), "--host", "127.0.0.1"]
    with serving(tmp_path / "models", command=command, env=environment) as server:
        assert_serves_an_image(server, "dcgan-fashion")
        assert_serves_the_pages(server)


def test_container_is_slim_and_unprivileged():
    build, final = dockerfile_stages()
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("-slim") == 2
    assert ("ARG", "ACCELERATOR=cpu") in build
    kinds = dict(final)
    assert kinds["USER"].isdigit()
    assert int(kinds["USER"]) > 0
    assert "/readyz" in kinds["HEALTHCHECK"]
    allowed = set((ROOT / ".dockerignore").read_text().split())
    for instruction, rest in [*build, *final]:
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert f"!{source}" in allowed, source
                assert (ROOT / source).exists(), source


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_container_install_steps_give_working_service(tmp_path, repository):
    """Runs the RUN instructions of the Dockerfile for the CPU, in their order."""
    source = checkout(tmp_path / "src")
    venv = tmp_path / "venv"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "VENV": str(venv)}
    environment |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
    environment["ACCELERATOR"] = "cpu"
    environment.pop("PIP_CONSTRAINT", None)
    for instruction, rest in dockerfile_stages()[0]:
        if instruction == "RUN":
            step = rest.replace(" --no-cache-dir", "")
            subprocess.run(["bash", "-ec", step], cwd=source, env=environment, check=True)
    shutil.rmtree(source)
    assert not list(venv.glob("lib/python3*/site-packages/torch"))
    command = [str(venv / "bin" / "ganymede"), "serve", "--host", "127.0.0.1"]
    flags = ["--models", str(repository)]
    with serving(tmp_path / "x", command=[*command, *flags], env={"HOME": str(tmp_path)}) as server:
        assert_serves_an_image(server, "gan-mnist")
        assert_serves_the_pages(server)
        port = server.url.rpartition(":")[2]
        check = dict(dockerfile_stages()[1])["HEALTHCHECK"].partition("CMD ")[2]
        python, *arguments = eval(check.replace(":3000", f":{port}"))
        assert python == "python"
        assert subprocess.run([str(venv / "bin" / python), *arguments], check=False).returncode == 0
    trained = subprocess.run(
        [str(venv / "bin" / "ganymede"), "train", "gan-mnist"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert trained.returncode == 1
    assert "pip install 'ganymede[train]'" in trained.stderr
