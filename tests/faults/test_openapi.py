"""No request gets a 5xx, whether or not it is valid according to the schema.

Schemathesis generates the requests from the OpenAPI document of the service.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.servers import serving

pytestmark = pytest.mark.slow

LIMITS = {
    "GANYMEDE_MAX_IMAGES": "8",
    "GANYMEDE_MAX_FRAMES": "8",
    "GANYMEDE_MAX_JOB_IMAGES": "8",
}


def with_time(document: dict) -> dict:
    """Raise the minimum deadline, because a missed one correctly gets 504."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "X-Deadline-Ms":
                    parameter["schema"]["minimum"] = 30_000
    return document


def with_models(document: dict, names: list[str]) -> dict:
    """Add the names of the models to the schema, which callers know from /v1/models."""
    for schema in document["components"]["schemas"].values():
        if (field := schema.get("properties", {}).get("model")) is not None:
            field.clear()
            field["enum"] = names
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "name":
                    parameter["schema"] = {"enum": names}
                if parameter["name"] == "version":
                    parameter["schema"] = {"enum": ["1"]}
    return document


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("known", [True, False], ids=["models-known", "as-published"])
@pytest.mark.parametrize(
    "examples", [8, pytest.param(300, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_no_request_gets_a_5xx(drawn_repository, tmp_path, examples, known):
    # Its own folder: a service that shares one with another responds 503.
    jobs = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with serving(drawn_repository, env=LIMITS | jobs) as server:
        document = with_time(httpx.get(f"{server.url}/openapi.json").json())
        if known:
            names = sorted(path.name for path in drawn_repository.iterdir())
            document = with_models(document, names)
        path = tmp_path / "openapi.json"
        path.write_text(json.dumps(document))
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", str(path)]
        command += ["--url", server.url, "--checks", "not_a_server_error", "--seed", "1"]
        command += ["--max-examples", str(examples), "--request-timeout", "60"]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=1700, check=False, cwd=tmp_path
        )
        assert process.returncode == 0, process.stdout[-5000:] + server.logged()[-3000:]
        # Requests were sent, and images generated.
        generated = int(re.search(r"(\d+) generated", process.stdout).group(1))
        assert generated > 500
        metrics = httpx.get(f"{server.url}/metrics").text
        if known:
            successful = r'requests_total\{method="POST",route="/v1/generate",status="200"\} [1-9]'
            assert re.search(successful, metrics)
        assert not re.search(r'requests_total\{[^}]*status="5', metrics)
