"""The Kubernetes manifests in deploy/kubernetes, parsed."""

import yaml

from tests.support.prometheus import DEPLOY

FOLDER = DEPLOY / "kubernetes"
NAMES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
MANIFESTS = {
    manifest["kind"]: manifest
    for name in NAMES
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
}
DEPLOYMENT = MANIFESTS["Deployment"]
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT = {each["name"]: each["value"] for each in CONTAINER["env"]}
