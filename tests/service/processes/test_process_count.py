import re

import httpx
import pytest

from service.processes.process_count import FRONT_S, count_for
from tests.support.failing_models import write_failing
from tests.support.servers import serving, wait_until, workers_of


@pytest.mark.parametrize(
    ("seconds", "cpus", "expected"),
    [
        # The code around the inference is nearly all of the work.
        (FRONT_S / 100, 2, 2),
        (FRONT_S / 100, 16, 16),
        # As long as the inference.
        (FRONT_S, 2, 2),
        (FRONT_S, 16, 14),
        # A small part of the work.
        (FRONT_S * 10, 2, 1),
        (FRONT_S * 1000, 64, 1),
        (FRONT_S / 100, 1, 1),
    ],
)
def test_more_processes_for_faster_models_and_more_cpus(seconds, cpus, expected):
    assert count_for(seconds, cpus) == expected


@pytest.mark.slow
def test_number_is_not_remembered_if_no_model_could_be_loaded(tmp_path):
    write_failing(tmp_path / "models" / "m" / "1")
    (tmp_path / "models" / "m" / "1" / "generator.onnx").write_bytes(b"")
    env = {"GANYMEDE_PLAN": "measure", "GANYMEDE_CACHE": str(tmp_path / "cache")}
    with serving(tmp_path / "models", "--processes", "auto", env=env, until="live") as server:
        wait_until(lambda: "no model is loaded" in server.logged())
        assert httpx.get(server.url + "/readyz").status_code == 503
    assert not (tmp_path / "cache" / "processes.json").exists()


@pytest.mark.slow
def test_server_starts_as_many_processes_as_pay_and_remembers_it(drawn_repository, tmp_path):
    env = {"GANYMEDE_PLAN": "measure", "GANYMEDE_CACHE": str(tmp_path)}
    counts = []
    for reason in ("requests per second", "measured earlier"):
        with serving(drawn_repository, "--processes", "auto", env=env) as server:
            wait_until(lambda: reason in server.logged())  # noqa: B023 - called in this iteration
            count = int(re.findall(r"processes: (\d+), each with \d+ MiB", server.logged())[-1])
            wait_until(lambda: len(workers_of(server)) == count)  # noqa: B023
            assert server.client().get("/v1/models").status_code == 200
            assert "Traceback" not in server.logged()
            counts.append(count)
    assert counts[0] == counts[1]
