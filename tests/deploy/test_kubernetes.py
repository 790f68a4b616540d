"""The manifests are consistent with Kubernetes' schemas, with each other, and with the service."""

import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.support.container import dockerfile_stages
from tests.support.kubernetes import (
    CONTAINER,
    DEPLOYMENT,
    ENVIRONMENT,
    FOLDER,
    MANIFESTS,
    NAMES,
    POD,
)
from tests.support.prometheus import ADAPTER, ROOT

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def newest_versions() -> list[str]:
    """The newest minor version of Kubernetes with schemas, and the three before it."""
    major, minor = kubernetes_validate.latest_version().split(".")[:2]
    return [f"{major}.{int(minor) - i}" for i in range(4)]


@pytest.mark.parametrize("version", newest_versions())
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifest_matches_schema(kind, version):
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_validation_rejects_unknown_field():
    invalid = yaml.safe_load(yaml.safe_dump(MANIFESTS["Service"]))
    invalid["spec"]["port"] = 80
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(invalid, newest_versions()[0], strict=True)


def test_kustomization_lists_every_manifest():
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(NAMES) == files
    assert set(MANIFESTS) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not here, so the kustomization is not built")
    built = subprocess.run(
        [kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=True
    ).stdout
    assert len(list(yaml.safe_load_all(built))) == len(MANIFESTS)


def test_selectors_match_pod_labels():
    labels = POD["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": DEPLOYMENT["apiVersion"],
        "kind": "Deployment",
        "name": DEPLOYMENT["metadata"]["name"],
    }
    # The autoscaler sets them.
    assert "replicas" not in DEPLOYMENT["spec"]
    autoscaler = MANIFESTS["HorizontalPodAutoscaler"]["spec"]
    budget = MANIFESTS["PodDisruptionBudget"]["spec"]
    assert autoscaler["minReplicas"] > budget["minAvailable"]


def test_autoscaler_uses_the_adapters_metric():
    (metric,) = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_ports_and_user_match_dockerfile():
    final = dockerfile_stages()[1]
    exposed = int(dict(final)["EXPOSE"])
    assert f'"{exposed}"' in dict(final)["CMD"]
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == exposed
    (service_port,) = MANIFESTS["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    for probe in PROBES:
        assert CONTAINER[probe]["httpGet"]["port"] == port["name"]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(exposed)
    context = POD["spec"]["securityContext"]
    assert str(context["runAsUser"]) == dict(final)["USER"]


def test_probe_and_metrics_paths_respond(drawn_server):
    paths = [CONTAINER[probe]["httpGet"]["path"] for probe in PROBES]
    with drawn_server.client() as client:
        for path in [*paths, POD["metadata"]["annotations"]["prometheus.io/path"]]:
            assert client.get(path).status_code == 200, path
    # A service that cannot become ready must report the reason, not be restarted forever.
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert CONTAINER["startupProbe"]["httpGet"]["path"] == "/livez"
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_environment_is_valid_settings(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
        setting = name.removeprefix("GANYMEDE_").lower()
        if name.startswith("GANYMEDE_") and name != "GANYMEDE_CACHE":
            assert setting in Settings.model_fields, name
    Settings()


def seconds_to_drain() -> float:
    """The time for accepted work to complete."""
    if (field := Settings.model_fields.get("drain_s")) is not None:
        return field.default
    source = (ROOT / "service" / "app.py").read_text()
    return float(re.search(r"^DRAIN_S = ([\d.]+)", source, re.MULTILINE).group(1))


def test_grace_period_covers_drain():
    _, before = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    assert grace >= float(before) + seconds_to_drain() + 5
    stopped = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["ganymede"]
    assert float(stopped["stop_grace_period"].removesuffix("s")) >= seconds_to_drain() + 5


def test_pod_is_restricted():
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert POD["spec"]["automountServiceAccountToken"] is False
    for bound in ("requests", "limits"):
        assert set(CONTAINER["resources"][bound]) == {"cpu", "memory"}


def test_writable_folders_are_mounted():
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert set(mounts) == volumes
    for name in ("TMPDIR", "BENTOML_HOME", "GANYMEDE_CACHE"):
        assert any(f"{ENVIRONMENT[name]}/".startswith(f"{path}/") for path in mounts.values())
