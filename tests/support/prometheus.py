"""A real Prometheus for tests, and the queries in deploy/."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.servers import free_port, stop

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ganymede.json"
ADAPTER = DEPLOY / "prometheus-adapter" / "values.yaml"


def program(name: str) -> str:
    if (path := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed; it is in Debian's package prometheus")
    return path


def rules() -> list[dict]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict]:
    listed = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in listed if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Return every query in deploy/ by its location, with variables substituted."""
    queries = {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            query = re.sub(r"\$__rate_interval", "1m", target["expr"])
            query = re.sub(r"\$(job|model)\b", ".*", query)
            queries[f"panel {panel['title']} {target['refId']}"] = query
    (adapted,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    query = adapted["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.Series>>", adapted["seriesQuery"].partition("{")[0])
    queries["adapter"] = query.replace("<<.LabelMatchers>>", 'job="ganymede"')
    return queries


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"(?<![:\w])(?:ganymede|process)_\w+", expression))


@contextlib.contextmanager
def scraping(target: str, folder: Path) -> Iterator[httpx.Client]:
    """Run Prometheus with the rules in deploy/ on `target`; yields a client of its API."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    config["rule_files"] = [str(ALERTS)]
    (job,) = config["scrape_configs"]
    # The labels that Kubernetes' service discovery adds.
    job["static_configs"] = [{"targets": [target], "labels": {"pod": "p", "namespace": "n"}}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until(lambda: _is_ready(client), folder / "prometheus.log")
            yield client
    finally:
        stop(process)


def _is_ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/-/ready").status_code == 200
    return False


def wait_until(condition, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
