"""compose.yaml: mounts exist, and services reach each other."""

import json

import yaml

from tests.support.container import dockerfile_stages
from tests.support.prometheus import DASHBOARD, DEPLOY, ROOT

SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
NAMED = yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]
GRAFANA = DEPLOY / "grafana"


def mounts(service: str) -> dict[str, str]:
    """Return host folders by mount point."""
    pairs = [volume.split(":")[:2] for volume in SERVICES[service]["volumes"]]
    return {inside: outside for outside, inside in pairs}


def inner_port(service: str) -> str:
    (port,) = SERVICES[service]["ports"]
    return port.split(":")[-1]


def test_compose_mounts_existing_folders():
    for service in SERVICES:
        for outside in mounts(service).values():
            assert outside in NAMED or (ROOT / outside).is_dir(), outside


def test_services_reach_each_other():
    assert inner_port("ganymede") == dict(dockerfile_stages()[1])["EXPOSE"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "ganymede"
    assert job["static_configs"] == [{"targets": [f"ganymede:{inner_port('ganymede')}"]}]
    inside = mounts("prometheus")
    assert inside["/etc/prometheus"] == "./deploy/prometheus"
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    provisioned = GRAFANA / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{inner_port('prometheus')}"


def test_grafana_finds_dashboard_and_data_source():
    inside = mounts("grafana")
    assert inside["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    provisioned = GRAFANA / "provisioning" / "dashboards" / "ganymede.yaml"
    (provider,) = yaml.safe_load(provisioned.read_text())["providers"]
    folder = provider["options"]["path"]
    assert (ROOT / inside[folder]).resolve() == DASHBOARD.parent.resolve()
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"
    datasources = GRAFANA / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(datasources.read_text())["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    assert {
        panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel
    } == {source["uid"]}


def test_panels_do_not_overlap():
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in dashboard["panels"]:
        ids.add(panel["id"])
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24
        covered = {
            (position["x"] + i, position["y"] + j)
            for i in range(position["w"])
            for j in range(position["h"])
        }
        assert not covered & taken, panel["title"]
        taken |= covered
    assert len(ids) == len(dashboard["panels"])


def test_only_the_service_is_exposed():
    for name, service in SERVICES.items():
        for port in service["ports"]:
            assert name == "ganymede" or port.startswith("127.0.0.1:")


def test_service_is_read_only_without_capabilities():
    ganymede = SERVICES["ganymede"]
    assert ganymede["read_only"] is True
    assert ganymede["cap_drop"] == ["ALL"]
    assert [mount.partition(":")[0] for mount in ganymede["tmpfs"]] == ["/tmp"]
    assert all(volume.endswith(":ro") for volume in ganymede["volumes"])
