"""Checks what Compose reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator, validators

from m3agiqa.gateway import settings as gateway
from tests.deploy.files import (
    COMPOSE,
    COMPOSE_TEXT,
    DOCKERFILE,
    EXAMPLE,
    OURS,
    REQUIRED,
    ROOT,
    SERVICES,
    Missing,
    environment,
    interpolate,
)
from worker.settings import PREFIX, Settings


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
    known |= {gateway.PREFIX + name.upper() for name in gateway.Settings.model_fields}
    for text in (COMPOSE_TEXT, EXAMPLE, DOCKERFILE):
        assert set(re.findall(rf"{PREFIX}\w+", text)) <= known
    for service in OURS:
        names = {name for name in environment(service, REQUIRED) if name.startswith(PREFIX)}
        assert names <= known


def test_secrets_go_only_where_they_are_needed() -> None:
    holders = {name for name in SERVICES if "M3AGIQA_WEBHOOK_SECRETS" in SERVICES[name].get("environment", {})}
    assert holders == {"deliver"}
    assert {name for name in SERVICES if "FLOWER_BASIC_AUTH" in SERVICES[name].get("environment", {})} == {"flower"}
    for secret, holders in {
        "REDIS_PASSWORD": {"redis", "score", "deliver", "gateway"},
        "REDIS_PRODUCER_PASSWORD": {"redis"},
        "REDIS_MONITOR_PASSWORD": {"redis", "flower"},
        "REDIS_EXPORTER_PASSWORD": {"redis", "exporter"},
    }.items():
        assert {name for name in SERVICES if REQUIRED[secret] in str(environment(name, REQUIRED))} == holders


def test_every_user_of_redis_gets_a_password_and_every_service_is_one() -> None:
    [source, target] = (
        next(volume for volume in SERVICES["redis"]["volumes"] if "users.acl" in volume).removesuffix(":ro").split(":")
    )
    users = re.findall(r"^user (\w+) on", (ROOT / source).read_text(encoding="utf-8"), re.MULTILINE)
    script = SERVICES["redis"]["command"][-1]
    assert target in script
    assert sorted(re.findall(r"s/\^user (\w+) on/", script)) == sorted(users)
    for service in OURS:
        user = urlsplit(environment(service, REQUIRED)["M3AGIQA_REDIS_URL"]).username
        assert user == {"flower": "monitor", "gateway": "operator"}.get(service, service)
        assert user in users


def test_prometheus_can_ask_workers_where_their_images_say() -> None:
    ports = {name: environment(name, REQUIRED).get("M3AGIQA_METRICS_PORT") for name in SERVICES}
    told = {name: port for name, port in ports.items() if port is not None}
    assert told.keys() == {"score", "deliver"}
    assert DOCKERFILE.count(f"\nEXPOSE {told['score']}\n") == len(told)
    assert told["score"] == told["deliver"]


def test_ports_are_open_to_this_host_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 7
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


def test_workers_have_a_limit_of_memory_beyond_what_they_end_themselves_at() -> None:
    settings = Settings()
    ours = {name: int(SERVICES[name]["mem_limit"].removesuffix("g")) * 1024 for name in ("score", "deliver", "flower")}
    assert ours["score"] > settings.memory_growth_limit_mib + settings.picture_budget_mib + 7000


def test_only_scoring_takes_a_gpu() -> None:
    [device] = SERVICES["score"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert [name for name in SERVICES if "deploy" in SERVICES[name]] == ["score"]


@pytest.mark.parametrize(("variables", "folder"), [({}, "./cfg"), ({"M3AGIQA_CONFIG_DIR": "/srv/ours"}, "/srv/ours")])
def test_policies_and_profiles_come_from_a_folder_of_the_host(variables: dict[str, str], folder: str) -> None:
    score = interpolate(SERVICES["score"], {**REQUIRED, **variables})
    assert f"{folder}:{score['environment']['M3AGIQA_CONFIG_DIR']}:ro" in score["volumes"]
    assert (ROOT / "cfg" / "policies").is_dir()
