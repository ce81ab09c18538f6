"""The files for Docker, read as Compose would: there may be no engine here."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
#: Those of them that start without being asked for.
STARTED = [name for name in OURS if "profiles" not in SERVICES[name]]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    line.split(None, 1)
    for line in re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]

REQUIRED = {
    "REDIS_PASSWORD": "r3disPassw0rd",
    "REDIS_PRODUCER_PASSWORD": "pr0ducerPassw0rd",
    "REDIS_MONITOR_PASSWORD": "m0nitorPassw0rd",
    "REDIS_EXPORTER_PASSWORD": "exp0rterPassw0rd",
    "FLOWER_USER": "operator",
    "FLOWER_PASSWORD": "fl0werPassw0rd",
    "M3AGIQA_WEBHOOK_SECRETS": "whsec_" + base64.b64encode(bytes(32)).decode(),
}


class Missing(Exception):
    pass


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Compose's `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, in every string below `value`."""
    if isinstance(value, dict):
        return {name: interpolate(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, operator, rest = match["name"], match["operator"], match["rest"]
        if found := variables.get(name):
            return found
        if operator == ":?":
            raise Missing(name)
        assert operator == ":-", f"{match[0]} would silently be empty"
        return str(rest)

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?P<operator>:[?-])?(?P<rest>[^}]*)\}", replace, value)


def environment(service: str, variables: dict[str, str]) -> dict[str, str]:
    """The environment of a service's container, without variables that the image sets."""
    declared = interpolate(SERVICES[service].get("environment", {}), variables)
    passed = {name: variables.get(name) if value is None else str(value) for name, value in declared.items()}
    return {name: value for name, value in passed.items() if value is not None}
