"""The overlay of examples/kubernetes, merged with deploy/kubernetes."""

import copy
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.support.examples import EXAMPLES
from tests.support.kubernetes import DEPLOYMENT, FOLDER, MANIFESTS

OVERLAY = EXAMPLES / "kubernetes"
KUSTOMIZATION = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
OWN = {
    manifest["kind"]: manifest
    for name in KUSTOMIZATION["resources"]
    if name.endswith(".yaml")
    for manifest in yaml.safe_load_all((OVERLAY / name).read_text())
}


def merged(base, patch):
    """Merge as Kubernetes' strategic merge does: lists of named items are merged by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = dict(base)
        for key, value in patch.items():
            result[key] = merged(base[key], value) if key in base else value
        return result
    if isinstance(base, list) and all(isinstance(each, dict) and "name" in each for each in patch):
        changed = {each["name"]: each for each in patch}
        result = [merged(each, changed.pop(each["name"], {})) for each in base]
        return [*result, *changed.values()]
    return patch


@pytest.fixture
def deployment():
    (patch,) = KUSTOMIZATION["patches"]
    content = yaml.safe_load((OVERLAY / patch["path"]).read_text())
    assert content["metadata"]["name"] == DEPLOYMENT["metadata"]["name"]
    return merged(copy.deepcopy(DEPLOYMENT), content)


def test_manifests_match_the_schemas(deployment):
    version = kubernetes_validate.latest_version()
    for manifest in [deployment, *OWN.values()]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_every_file_is_used():
    used = [*KUSTOMIZATION["resources"], *(each["path"] for each in KUSTOMIZATION["patches"])]
    files = {path.name for path in OVERLAY.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {name for name in used if name.endswith(".yaml")}
    (base,) = [name for name in used if not name.endswith(".yaml")]
    assert (OVERLAY / base).resolve() == FOLDER.resolve()


def test_models_come_from_the_volume(deployment):
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    # The settings of deploy/kubernetes still apply.
    assert environment["GANYMEDE_KEYS"] == "/keys/keys.json"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment["GANYMEDE_MODELS"] == mounts["models"]
    assert mounts["tmp"] == "/tmp"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == OWN["PersistentVolumeClaim"]["metadata"]["name"]


def test_environment_is_valid_settings(deployment, monkeypatch):
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
        name = each["name"].removeprefix(PREFIX).lower()
        if each["name"].startswith(PREFIX) and name != "cache":
            assert name in Settings.model_fields
    assert Settings().watch_s == 5


def test_ingress_serves_the_service_but_not_its_metrics():
    (port,) = MANIFESTS["Service"]["spec"]["ports"]
    (rule,) = OWN["Ingress"]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        service = path["backend"]["service"]
        assert service["name"] == MANIFESTS["Service"]["metadata"]["name"]
        assert service["port"]["name"] == port["name"]
        if path["pathType"] == "Prefix":
            assert not "/metrics".startswith(path["path"].rstrip("/") + "/")
            assert path["path"] != "/"


def test_kubectl_builds_the_overlay():
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not here, so the overlay is not built")
    command = [kubectl, "kustomize", str(OVERLAY)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(built)]
    assert sorted(kinds) == sorted([*MANIFESTS, *OWN])
