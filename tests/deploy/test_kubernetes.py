"""The Kubernetes manifests: valid by Kubernetes' own schemas, and what they promise."""

import subprocess
from typing import Any

import pytest
import yaml

from shop.platform import discovery
from shop.platform.settings import Settings, read_settings
from tests.support.compose import DEPLOY
from tests.support.services import FRONTS, SHIPPED

FILE = DEPLOY / "kubernetes/shop.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))
VALIDATE = DEPLOY.parent / "build/ci/bin/kubernetes-validate"


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


PODS = {
    name: found["spec"]["template"]
    for kind in ("Deployment", "Job")
    for name, found in of(kind).items()
}


def test_they_are_valid_by_kubernetes_own_schemas() -> None:
    if not VALIDATE.exists():
        pytest.skip(
            "left out, since Kubernetes' schemas are not here: `make ci-tools` installs them"
        )
    done = subprocess.run(
        [VALIDATE, "--strict", FILE], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_has_two_of_each_and_may_lose_one() -> None:
    parts = {f"{name}-{part}" for name in SHIPPED for part in ("api", "worker")}
    assert of("Deployment").keys() == parts | set(FRONTS)
    assert of("PodDisruptionBudget").keys() == parts
    assert of("Service").keys() == {f"{name}-api" for name in SHIPPED}
    for name in parts:
        assert of("Deployment")[name]["spec"]["replicas"] == 2
        budget = of("PodDisruptionBudget")[name]["spec"]
        labels = PODS[name]["metadata"]["labels"]
        assert budget["minAvailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_may_do_little_and_sees_its_own_secrets(name: str) -> None:
    pod = PODS[name]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "@sha256:" in container["image"] and "memory" in container["resources"]["limits"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert secret == {"secretName": name, "defaultMode": 0o440}
    for variable in container["env"]:
        if "PASSWORD" in variable["name"] or "ENCRYPTION" in variable["name"]:
            assert variable["name"].endswith("_FILE")
    grace = pod.get("terminationGracePeriodSeconds", 60)
    assert grace >= (Settings().finish_within() + 7 if name.endswith("-api") else 45)


@pytest.mark.parametrize("name", sorted(PODS))
def test_what_a_pod_is_given_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SERVICES", "shop.services")
    (container,) = PODS[name]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    for source in container["envFrom"]:
        given |= of("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for key, text in given.items():
        if not key.endswith("_FILE"):
            monkeypatch.setenv(key, text)
    assert read_settings(discovery.sections()).env == "production"


def test_nothing_is_open_but_what_a_policy_opens() -> None:
    policies = of("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, pod in PODS.items():
        needs = pod["metadata"]["labels"]["needs"]
        # An API does not reach Kafka, and nobody but Prometheus reaches a worker.
        assert needs == ("database" if name.endswith("-api") else "log")
    assert policies["to-kafka"]["spec"]["podSelector"]["matchLabels"] == {"needs": "log"}
    inward = [name for name, each in policies.items() if "ingress" in each["spec"]]
    assert inward == [
        "from-the-gateway",
        "from-prometheus",
        *(f"from-the-{name}" for name in FRONTS),
    ]
    for name in FRONTS:
        # Nothing leads to pages for staff but a port-forward; they ask the APIs.
        assert policies[f"from-the-{name}"]["spec"]["podSelector"] == {
            "matchLabels": {"needs": "database"}
        }
    [scraped] = policies["from-prometheus"]["spec"]["ingress"]
    assert scraped["ports"] == [{"protocol": "TCP", "port": 9464}]
    assert policies["from-the-gateway"]["spec"]["podSelector"]["matchLabels"] == {
        "needs": "database"
    }
