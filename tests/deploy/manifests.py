"""The manifests for Kubernetes, read as YAML: there may be no kustomize here."""

from __future__ import annotations

from typing import Any

import yaml

from tests.deploy.files import REQUIRED, ROOT

FOLDER = ROOT / "deploy" / "k8s"


def documents(folder: str) -> list[dict[str, Any]]:
    files = [file for file in sorted((FOLDER / folder).glob("*.yaml")) if file.name != "kustomization.yaml"]
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


BASE = documents("base")
[SCALED] = documents("keda")
PODS: dict[str, dict[str, Any]] = {
    document["metadata"]["name"].removeprefix("m3agiqa-"): document["spec"]["template"]["spec"]
    for document in BASE
    if document["kind"] == "Deployment"
}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}
WORKERS = ("score", "deliver")
KUSTOMIZATION = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text(encoding="utf-8"))
SETTINGS = dict(line.split("=", 1) for line in KUSTOMIZATION["configMapGenerator"][0]["literals"])
#: What the secrets hold, as the example says.
SECRETS = {
    **{
        ("m3agiqa-redis", f"{user}-url"): f"redis://{user}:{REQUIRED[password]}@redis:6379/0"
        for user, password in {
            "score": "REDIS_PASSWORD",
            "deliver": "REDIS_PASSWORD",
            "monitor": "REDIS_MONITOR_PASSWORD",
            "exporter": "REDIS_EXPORTER_PASSWORD",
        }.items()
    },
    ("m3agiqa-webhooks", "secrets"): REQUIRED["M3AGIQA_WEBHOOK_SECRETS"],
    ("m3agiqa-flower", "basic-auth"): f"{REQUIRED['FLOWER_USER']}:{REQUIRED['FLOWER_PASSWORD']}",
}


def variables_of(name: str) -> dict[str, str]:
    """A container's environment, its secrets read."""
    container = CONTAINERS[name]
    found = dict(SETTINGS) if "envFrom" in container else {}
    for item in container["env"]:
        secret = item.get("valueFrom", {}).get("secretKeyRef")
        found[item["name"]] = SECRETS[secret["name"], secret["key"]] if secret else item["value"]
    return found
