"""Hostile files, wherever a file or a body can be given."""

import subprocess
import time

import psutil
import pytest

from service.offline.reproduce import CannotReproduce, reproduce
from tests.support.hostile_images import corpus
from tests.support.servers import ganymede, serving, worker_of

CORPUS = corpus()


def test_the_command_says_of_each_in_one_line_that_it_cannot_be_made_again(
    drawn_repository, tmp_path
):
    for name, content in CORPUS.items():
        (tmp_path / name).write_bytes(content)
    for name in CORPUS:
        with pytest.raises(CannotReproduce) as said:
            reproduce(tmp_path / name, drawn_repository)
        assert len(str(said.value).splitlines()) == 1
    for name in ("png-bomb", "text"):
        done = subprocess.run(
            ganymede("reproduce", tmp_path / name, "--models", drawn_repository),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.fixture(scope="module")
def server(drawn_repository):
    with serving(drawn_repository) as server:
        yield server


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "image/png", "application/octet-stream", "multipart/form-data", ""],
)
def test_as_a_body_of_any_route_it_is_refused(server, content_type):
    with server.client() as client:
        worker = worker_of(server)
        paths = client.get("/openapi.json").json()["paths"]
        routes = [path for path, operations in paths.items() if "post" in operations]
        began = time.monotonic()
        before = worker.memory_info().rss
        for route in routes:
            url = route.replace("{name}", "painted").replace("{version}", "1")
            for name, content in CORPUS.items():
                headers = {"content-type": content_type} if content_type else {}
                answer = client.post(url, content=content, headers=headers)
                assert answer.status_code < 500, (url, name)
                if "admin" not in url and "index" not in url:
                    assert answer.status_code >= 400, (url, name)
        assert time.monotonic() - began < 120
        assert worker.memory_info().rss - before < 200 * 2**20
        assert psutil.pid_exists(worker.pid)
        assert "Traceback" not in server.logged()
