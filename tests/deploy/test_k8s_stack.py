"""Runs the commands of the containers for Kubernetes, and what their probes ask, without containers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from producers import Client
from tests.deploy.manifests import CONTAINERS, PODS, SCALED, WORKERS, variables_of
from tests.deploy.stack import Stack, pings, running, status
from tests.support import PATIENCE_S, Web, eventually

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture
def stack(tmp_path: Path, web: Web) -> Iterator[Stack]:
    with running(tmp_path, web) as stack:
        yield stack


def answers(stack: Stack, name: str, kind: str, variables: dict[str, str]) -> bool:
    probe = CONTAINERS[name].get(kind, CONTAINERS[name]["livenessProbe"])
    if "exec" in probe:
        return stack.check(name, probe["exec"]["command"], variables)
    port = stack.ports[str(CONTAINERS[name]["ports"][0]["containerPort"])]
    try:
        return status(f"http://127.0.0.1:{port}{probe['httpGet']['path']}") == 200
    except OSError:
        return False


def test_the_commands_of_all_containers_score_and_deliver(stack: Stack, web: Web) -> None:
    # given Redis with the users of deploy/redis
    stack.up("redis")
    producer = stack.redis_url("producer", "REDIS_PRODUCER_PASSWORD")
    with Redis.from_url(producer) as redis, Client(producer) as client:
        eventually(lambda: pings(redis), "Redis takes its password")
        # when every container's command runs, with allowed hosts as an overlay would add them
        allowed = dict.fromkeys(("M3AGIQA_FETCH_ALLOW_HOSTS", "M3AGIQA_DELIVER_ALLOW_HOSTS"), web.endpoint)
        ours = {"M3AGIQA_MODEL": "fake", "M3AGIQA_DEVICE": "cpu", **allowed}
        for name in PODS:
            variables = {**variables_of(name), **ours}
            stack.start(name, CONTAINERS[name]["command"], variables)
            for kind in PROBES:
                eventually(
                    lambda name=name, kind=kind, variables=variables: answers(stack, name, kind, variables),  # type: ignore[misc]
                    f"{kind} of {name}",
                )
        # then an image is scored and its verdict delivered
        request_id = client.submit(image_url=web.url("a.png"), prompt="a square", callback_url=web.url("hook"))
        assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
        eventually(lambda: web.count("hook"), "a callback")
    # and Prometheus would be told
    for name in WORKERS:
        assert "m3agiqa_threads " in stack.metrics(name)
    # and the exporter tells what KEDA asks for
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports['9808']}/queue", timeout=30) as response:
        told = json.load(response)
    for trigger in SCALED["spec"]["triggers"]:
        field, key = trigger["metadata"]["valueLocation"].split(".")
        assert isinstance(told[field][key], int)
