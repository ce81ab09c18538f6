"""Checks the manifests: against what Compose runs and settings say, by the schemas of Kubernetes and by kustomize where
they are installed, and by what KEDA documents.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.deploy import keda
from tests.deploy.files import SERVICES, STARTED
from tests.deploy.manifests import (
    BASE,
    CONTAINERS,
    FOLDER,
    KUSTOMIZATION,
    PODS,
    SCALED,
    SECRETS,
    SETTINGS,
    WORKERS,
    documents,
    variables_of,
)
from tests.pages import DOCS
from worker.settings import PREFIX, Settings

#: Those that Kubernetes still mends; the first one until February 2027.
VERSIONS = ("1.35", "1.37")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which has kustomize")


# --- schemas -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kubernetes() -> Any:
    """The package with the schemas of Kubernetes."""
    return pytest.importorskip(
        "kubernetes_validate", reason="no schemas of Kubernetes here: pip install '.[manifests]', 108 MB"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_by_the_schemas_of_kubernetes(kubernetes: Any, version: str) -> None:
    for document in [*BASE, *documents("example")]:
        kubernetes.validate(document, version, strict=True)
    broken = {**BASE[0], "spec": {**BASE[0]["spec"], "replikas": 1}}
    with pytest.raises(kubernetes.ValidationError, match="replikas"):
        kubernetes.validate(broken, version, strict=True)


def test_the_scaler_has_the_fields_that_keda_documents() -> None:
    keda.ScaledObject.model_validate(SCALED)
    with pytest.raises(ValidationError, match="coolDown"):
        keda.ScaledObject.model_validate({**SCALED, "spec": {**SCALED["spec"], "coolDown": 1}})


def test_pages_and_files_say_from_which_keda_on() -> None:
    for text in (FOLDER / "keda" / "kustomization.yaml", DOCS / "operations.md"):
        assert f"{keda.OLDEST} or newer" in text.read_text(encoding="utf-8"), text


@pytest.fixture(scope="module")
def built() -> str:
    """What kustomize makes of the example."""
    command = ["kubectl", "kustomize", str(FOLDER / "example")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@needs_kubectl
def test_kustomize_builds_the_example(built: str) -> None:
    found = list(yaml.safe_load_all(built))
    # given what it says, everything is in its namespace, and every image has a registry
    assert {item["metadata"]["namespace"] for item in found if item["kind"] != "Namespace"} == {"m3agiqa"}
    assert all(image.startswith("registry.example/") for image in re.findall(r"image: (\S+)", built))
    # and how many score is for KEDA to say
    replicas = {
        item["metadata"]["name"]: item["spec"].get("replicas") for item in found if item["kind"] == "Deployment"
    }
    assert replicas["m3agiqa-score"] is None
    assert replicas["m3agiqa-deliver"] == 2
    # and selectors are left as they are, as those of a Deployment cannot be changed later
    [score] = [item for item in found if item["metadata"]["name"] == "m3agiqa-score" and item["kind"] == "Deployment"]
    assert set(score["spec"]["selector"]["matchLabels"]) == {"app.kubernetes.io/name"}


@needs_kubectl
def test_what_kustomize_builds_is_valid(kubernetes: Any, built: str) -> None:
    items = [item for item in yaml.safe_load_all(built) if item["kind"] != "ScaledObject"]
    for item in items:
        kubernetes.validate(item, VERSIONS[-1], strict=True)  # raises
    assert {item["kind"] for item in items} >= {"Deployment", "NetworkPolicy", "ConfigMap"}


def test_every_file_is_listed() -> None:
    for folder in ("base", "keda", "example"):
        kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        names = {file.name for file in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert names == {resource for resource in kustomization["resources"] if not resource.startswith("..")}


# --- pods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_little(name: str) -> None:
    pod, container = PODS[name], CONTAINERS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", PODS)
def test_no_service_becomes_a_setting(name: str) -> None:
    # Kubernetes would set M3AGIQA_EXPORTER_PORT=tcp://..., the name of a setting.
    assert PODS[name]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", STARTED)
def test_every_container_reads_the_shared_settings(name: str) -> None:
    # A namespace that one of them did not know would have it look at another platform's queue, or at none.
    assert {"configMapRef": {"name": "m3agiqa-settings"}} in CONTAINERS[name]["envFrom"]


@pytest.mark.parametrize("name", STARTED)
def test_containers_run_what_compose_runs(name: str) -> None:
    container = CONTAINERS[name]
    assert container["image"] == SERVICES[name]["image"]
    assert container["command"] == SERVICES[name]["command"]
    if name in WORKERS:
        assert container["livenessProbe"]["exec"]["command"] == SERVICES[name]["healthcheck"]["test"][1:]


def test_only_scoring_takes_a_gpu_and_one() -> None:
    gpus = {name: container["resources"]["limits"].get("nvidia.com/gpu") for name, container in CONTAINERS.items()}
    assert gpus == {**dict.fromkeys(PODS), "score": "1"}


def test_a_batch_may_end_before_its_worker_is_killed() -> None:
    settings = Settings()
    drain_s = settings.fetch_timeout_s + settings.max_wait_ms / 1000 + settings.score_timeout_s
    assert PODS["score"]["terminationGracePeriodSeconds"] > drain_s
    assert PODS["deliver"]["terminationGracePeriodSeconds"] > settings.deliver_timeout_s


def test_settings_are_settings_and_secrets_are_referred_to() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name, container in CONTAINERS.items():
        variables = {**SETTINGS, **variables_of(name)}
        assert {variable for variable in variables if variable.startswith(PREFIX)} <= known
        written = {item["name"] for item in container["env"] if "value" in item}
        assert not [variable for variable in written if re.search("SECRET|PASSWORD|AUTH|URL", variable)]
    assert not set(SETTINGS) & {"M3AGIQA_REDIS_URL", "M3AGIQA_WEBHOOK_SECRETS"}
    text = (FOLDER / "example" / "kustomization.yaml").read_text(encoding="utf-8")
    for secret, key in SECRETS:
        assert secret in text
        assert key in text


def test_folders_that_are_written_to_are_volumes() -> None:
    for name in WORKERS:
        mounted = {item["mountPath"] for item in CONTAINERS[name]["volumeMounts"] if not item.get("readOnly")}
        assert mounted == {"/cache", SETTINGS["M3AGIQA_HEALTH_DIR"], "/tmp"}  # noqa: S108
    config = SETTINGS["M3AGIQA_CONFIG_DIR"]
    read = {item["mountPath"] for item in CONTAINERS["score"]["volumeMounts"] if item.get("readOnly")}
    assert read == {f"{config}/policies", f"{config}/models", f"{config}/tenants"}


# --- network -----------------------------------------------------------------------------------------------------


POLICIES = {document["metadata"]["name"]: document["spec"] for document in BASE if document["kind"] == "NetworkPolicy"}


def allows(address: str, blocks: list[dict[str, Any]]) -> bool:
    ip = ipaddress.ip_address(address)
    return any(
        ip in ipaddress.ip_network(block["cidr"])
        and not any(ip in ipaddress.ip_network(hole) for hole in block.get("except", []))
        for block in blocks
    )


def test_fetchers_reach_the_public_web_and_no_private_address() -> None:
    [rule] = POLICIES["m3agiqa-public-web"]["egress"]
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    assert {item["port"] for item in rule["ports"]} == set(Settings().fetch_ports)
    for address in ("1.1.1.1", "93.184.215.14", "2606:4700:4700::1111"):
        assert allows(address, blocks)
    for address in (
        *("0.0.0.1", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1"),
        *("198.18.0.1", "224.0.0.1", "255.255.255.255"),
        *("::1", "::ffff:10.0.0.1", "fc00::1", "fd00:ec2::254", "fe80::1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1"),
    ):
        assert not allows(address, blocks), address


def test_what_is_let_in_reaches_a_port() -> None:
    ports = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    known = {value for port in ports for value in (port["name"], port["containerPort"])}
    let_in = [port["port"] for spec in POLICIES.values() for rule in spec.get("ingress", []) for port in rule["ports"]]
    assert let_in
    assert set(let_in) <= known
    for name in WORKERS:
        assert CONTAINERS[name]["ports"] == [
            {"name": "metrics", "containerPort": int(SETTINGS["M3AGIQA_METRICS_PORT"])}
        ]


def test_what_no_policy_allows_is_refused() -> None:
    assert POLICIES["m3agiqa-nothing"].keys() == {"podSelector", "policyTypes"}
    assert set(POLICIES["m3agiqa-nothing"]["policyTypes"]) == {"Ingress", "Egress"}
    [pairs] = [item for item in KUSTOMIZATION["labels"] if item["includeTemplates"]]
    assert POLICIES["m3agiqa-nothing"]["podSelector"]["matchLabels"] == pairs["pairs"]


# --- scaling -----------------------------------------------------------------------------------------------------


def test_keda_asks_the_exporter_for_every_priority() -> None:
    [service] = [document for document in BASE if document["kind"] == "Service"]
    [port] = [item["port"] for item in service["spec"]["ports"]]
    triggers = SCALED["spec"]["triggers"]
    assert {trigger["metadata"]["url"] for trigger in triggers} == {
        f"http://{service['metadata']['name']}.m3agiqa:{port}/queue"
    }
    names = re.split(r" \+ ", SCALED["spec"]["advanced"]["scalingModifiers"]["formula"])
    assert names == [trigger["name"] for trigger in triggers]
    assert [trigger["metadata"]["valueLocation"] for trigger in triggers] == [
        f"waiting.{step}" for step in (0, 3, 6, 9)
    ]
    # It goes long after it could have finished what it had.
    assert SCALED["spec"]["cooldownPeriod"] > PODS["score"]["terminationGracePeriodSeconds"]
