"""examples/avatar_service.py, as its own process, beside a real service."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import httpx
from PIL import Image

from tests.support.examples import EXAMPLES
from tests.support.servers import free_port, stop, wait_until


@contextlib.contextmanager
def avatars(service: str, folder: Path, model: str):
    """Run the example against `service`, and yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(EXAMPLES / "avatar_service.py"), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--model", model],
            env={**os.environ, "GANYMEDE_URL": service},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: answers(url) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        stop_quietly(process)


def answers(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/openapi.json", timeout=60).status_code == 200
    return False


def stop_quietly(process):
    if process.poll() is None:
        stop(process)


def test_every_user_has_one_image(drawn_server, tmp_path):
    with avatars(drawn_server.url, tmp_path, "painted@1") as url:
        ada, again, grace = (
            httpx.get(f"{url}/avatars/{user}.png", timeout=60) for user in ("ada", "Ada", "grace")
        )
    assert ada.status_code == 200
    assert ada.content == again.content != grace.content
    image = Image.open(io.BytesIO(ada.content))
    assert image.format == "PNG"
    assert f'"seed":{ada.headers["x-seed"]}' in image.text["ganymede"].replace(" ", "")


def test_troubles_are_responses(drawn_server, tmp_path):
    with avatars(drawn_server.url, tmp_path, "unknown@1") as url:
        response = httpx.get(f"{url}/avatars/ada.png", timeout=60)
    assert response.status_code == 500
    assert "set wrong" in response.json()["detail"]
    with avatars(f"http://127.0.0.1:{free_port()}", tmp_path, "painted@1") as url:
        response = httpx.get(f"{url}/avatars/ada.png", timeout=60)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
