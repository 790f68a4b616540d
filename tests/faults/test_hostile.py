"""Hostile files as arguments and as request bodies."""

import subprocess

import psutil
import pytest

from service.offline.reproduce import CannotReproduce, reproduce
from tests.support.hostile_images import corpus
from tests.support.servers import ganymede, worker_of

pytestmark = pytest.mark.slow

CORPUS = corpus()


def test_reproduce_rejects_hostile_files_in_one_line(drawn_repository, tmp_path):
    for name, content in CORPUS.items():
        (tmp_path / name).write_bytes(content)
    for name in CORPUS:
        with pytest.raises(CannotReproduce) as error:
            reproduce(tmp_path / name, drawn_repository)
        assert len(str(error.value).splitlines()) == 1
    for name in ("png-bomb", "text"):
        process = subprocess.run(
            ganymede("reproduce", tmp_path / name, "--models", drawn_repository),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert process.returncode == 2
        assert len(process.stderr.splitlines()) == 1, process.stderr


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "image/png", "application/octet-stream", "multipart/form-data", ""],
)
def test_routes_reject_hostile_bodies(drawn_server, content_type):
    with drawn_server.client() as client:
        worker = worker_of(drawn_server)
        paths = client.get("/openapi.json").json()["paths"]
        routes = [path for path, operations in paths.items() if "post" in operations]
        before = worker.memory_info().rss
        for route in routes:
            url = route.replace("{name}", "painted").replace("{version}", "1")
            for name, content in CORPUS.items():
                headers = {"content-type": content_type} if content_type else {}
                response = client.post(url, content=content, headers=headers)
                assert response.status_code < 500, (url, name)
                if "admin" not in url and "index" not in url:
                    assert response.status_code >= 400, (url, name)
        assert worker.memory_info().rss - before < 200 * 2**20
        assert psutil.pid_exists(worker.pid)
        assert "Traceback" not in drawn_server.logged()
