"""Rules, dashboard and adapter query, with a real Prometheus that scrapes the real service."""

import re
import subprocess
import time

import pytest
import yaml

from tests.support.prometheus import (
    ALERTS,
    DEPLOY,
    ROOT,
    expressions,
    metric_names,
    panels,
    program,
    rules,
    scraping,
    wait_until,
)
from tests.support.servers import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The included models, after at least one request of every kind that has metrics."""
    with serving(ROOT / "models") as server, server.client() as client:
        for seed in range(4):
            for model in ("dcgan-fashion", "stylegan2-flowers"):
                body = {"model": model, "seed": seed}
                assert client.post("/v1/generate", json=body).is_success
            time.sleep(0.3)
        path = "/v1/models/dcgan-fashion/images/1.png"
        etag = client.get(path).headers["etag"]
        assert client.get(path, headers={"if-none-match": etag}).status_code == 304
        yield server


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with scraping(server.url.removeprefix("http://"), folder) as client:

        def scraped() -> bool:
            # Rates require several scrapes.
            return float(query(client, 'count_over_time(up{job="ganymede"}[1m])', "0")) >= 4

        wait_until(scraped, folder / "prometheus.log")
        yield client


def query(client, expression: str, otherwise: str = "") -> str:
    response = client.get("/api/v1/query", params={"query": expression}).json()
    assert response["status"] == "success", (expression, response)
    result = response["data"]["result"]
    return result[0]["value"][1] if result else otherwise


def test_promtool_accepts_configuration():
    config = DEPLOY / "prometheus" / "prometheus.yml"
    subprocess.run([program("promtool"), "check", "config", str(config)], check=True)


def test_every_alert_has_a_passing_rule_test():
    tests = DEPLOY / "prometheus" / "alerts.test.yml"
    process = subprocess.run(
        [program("promtool"), "test", "rules", str(tests)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    fired = {
        each["alertname"]
        for test in yaml.safe_load(tests.read_text())["tests"]
        for each in test["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_documentation_lists_every_alert():
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| `(Ganymede\w+)` \|", text, re.MULTILINE)
    assert listed == [rule["alert"] for rule in rules() if "alert" in rule]


@pytest.mark.parametrize(("where", "expression"), expressions().items())
def test_queries_use_existing_metrics(server, where, expression):
    with server.client() as client:
        exposed = set(re.findall(r"^# TYPE (\w+) ", client.get("/metrics").text, re.MULTILINE))
    for name in metric_names(expression):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert {name, family} & exposed, name


def test_healthy_service_raises_no_alert(prometheus):
    assert query(prometheus, 'up{job="ganymede"}') == "1"
    assert query(prometheus, 'ganymede_state{state="ready"}') == "1"
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(rules())
    for rule in loaded:
        assert rule["health"] in ("ok", "unknown"), rule
        assert rule.get("state", "inactive") == "inactive", rule


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_dashboard_panel_query_returns_data(server, prometheus, tmp_path, panel):
    without_data = {"Rejections by reason"}
    queries = expressions()
    for target in panel["targets"]:
        expression = queries[f"panel {panel['title']} {target['refId']}"]
        if panel["title"] in without_data:
            query(prometheus, expression)
            continue

        def has_data(expression: str = expression) -> bool:
            # Rates need requests while they are observed.
            with server.client() as client:
                for model in ("dcgan-fashion", "stylegan2-flowers"):
                    client.get(f"/v1/models/{model}/images/1.png", headers={"if-none-match": "*"})
                    client.get(f"/v1/models/{model}/images/1.png")
            return query(prometheus, expression) not in ("", "NaN")

        log = tmp_path / "log"
        log.write_text(expression)
        wait_until(has_data, log)


def test_autoscaler_metric_is_queue_fill(prometheus, tmp_path):
    log = tmp_path / "log"
    log.write_text("the queue was never empty")
    # The last request may still have been queued at a scrape.
    wait_until(lambda: query(prometheus, expressions()["adapter"]) == "0", log)


def test_rule_tests_fail_if_an_alert_never_fires(tmp_path):
    """The tests of the rules fail if a threshold can never be exceeded."""
    text = ALERTS.read_text().replace("> 0.01", "> 1.01")
    (tmp_path / "alerts.yml").write_text(text)
    tests = tmp_path / "alerts.test.yml"
    tests.write_text((DEPLOY / "prometheus" / "alerts.test.yml").read_text())
    process = subprocess.run(
        [program("promtool"), "test", "rules", str(tests)], capture_output=True, check=False
    )
    assert process.returncode != 0
