"""Breaks one thing after the other on a platform that Prometheus watches, and says which alert came, and when.

`python -m tests.monitoring.drill [--picture FILE.png]` needs Debian's packages prometheus and prometheus-alertmanager.
Rules run `watched.FASTER` times faster than they are written; it takes some twenty minutes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.table import Table

from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from tests.monitoring import panels
from tests.monitoring.watched import Watched, watching
from tests.support import eventually, png

#: Seconds until the alert must have come, and until nothing fires any more once the fault is mended.
PATIENCE_S = 150.0
#: Seconds for which a fault goes on after its alert came, as another alert may be wrong.
LINGER_S = 20.0
#: Requests a second that come all the time.
RATE = 4


@dataclass(frozen=True)
class Fault:
    """Something that breaks: `begin` and `mend` do what the names say. `expected` alerts must come; `also` may, as they
    say something that is true as well.
    """

    name: str
    begin: Callable[[], None]
    mend: Callable[[], None]
    expected: frozenset[str]
    also: frozenset[str] = frozenset()


@dataclass
class Outcome:
    fault: Fault
    #: Seconds from the fault to each alert on the pager.
    came: dict[str, float] = field(default_factory=dict)
    #: Seconds from mending until nothing fired; None if something still did.
    calm_s: float | None = None

    @property
    def wrong(self) -> set[str]:
        return self.came.keys() - self.fault.expected - self.fault.also

    @property
    def passed(self) -> bool:
        return self.fault.expected <= self.came.keys() and not self.wrong and self.calm_s is not None


class Traffic:
    """Backends that submit all the time. `paths` are what an image and a callback are asked for by."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.image, self.hook = "a.png", "hook"
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(1 / RATE):
            number = next(self._numbers)
            web = self.watched.web
            try:
                self.watched.client.submit(
                    image_url=web.url(self.image),
                    prompt=f"prompt {number}",
                    callback_url=web.url(self.hook),
                    priority=(0, 3, 3, 6)[number % 4],  # type: ignore[arg-type]
                )
            except QueueUnavailable:
                continue


def _faults(watched: Watched, traffic: Traffic, redis: Redis) -> list[Fault]:
    web, workers = watched.web, watched.workers

    def serve(path: str, *statuses: int) -> Callable[[], None]:
        return lambda: web.answers.__setitem__(path, list(statuses))

    def kill(*names: str) -> Callable[[], None]:
        return lambda: [workers[name].kill() for name in names] and None

    def start(*names: str) -> Callable[[], None]:
        return lambda: [watched.start(name) for name in names] and None

    def freeze(number: int) -> Callable[[], None]:
        pid = int(redis.info("server")["process_id"])
        return lambda: os.kill(pid, number)

    def stop_exporter() -> None:
        assert watched.exporter is not None
        watched.exporter.kill()
        watched.exporter.wait()

    def start_dead() -> None:
        for name in [name for name, worker in workers.items() if worker.process.poll() is not None]:
            watched.start(name)

    def poison() -> None:
        """An image that ends its worker; as a supervisor does, start workers again that end."""
        web.images["poison.png"] = png(side=13)
        watched.client.submit(image_url=web.url("poison.png"), prompt="", request_id=f"poison-{time.time_ns()}")
        until = time.monotonic() + 45
        while time.monotonic() < until:
            start_dead()
            time.sleep(0.5)

    def rubbish() -> None:
        for _ in range(60):
            redis.lpush(keys.inbox(9), "x" * 60_000)

    def drop_letters() -> None:
        for letter in list(watched.client.dead_letters()):
            watched.client.drop(letter.id)

    def no_eviction() -> None:
        redis.config_set("maxmemory-policy", "noeviction")

    lost = frozenset({"WorkersLost", "WorkerDown"})
    return [
        Fault("receiver answers 500", serve("hook", 500), serve("hook", 200), frozenset({"ReceiverFails"})),
        Fault(
            "receiver answers 410",
            serve("hook", 410),
            lambda: (serve("hook", 200)(), drop_letters())[0],
            frozenset({"DeliveriesDead"}),
            frozenset({"ReceiverFails"}),
        ),
        # It may have had no task then.
        Fault("a score worker killed", kill("score1"), start("score1"), frozenset({"WorkerDown"}), lost),
        Fault(
            "all score workers killed",
            kill("score1", "score2"),
            start("score1", "score2"),
            frozenset({"NoScoreWorker"}),
            lost,
        ),
        Fault("deliver worker killed", kill("deliver1"), start("deliver1"), frozenset({"NoDeliverWorker"}), lost),
        Fault("Redis frozen", freeze(signal.SIGSTOP), freeze(signal.SIGCONT), frozenset({"RedisDown"}), lost),
        Fault("exporter killed", stop_exporter, watched.start_exporter, frozenset({"ExporterDown"})),
        Fault("image server: 404", serve("a.png", 404), serve("a.png", 200), frozenset({"ImagesUnavailable"})),
        Fault(
            "image server slow (6 s)",
            lambda: setattr(web, "delay_s", 6.0),
            lambda: setattr(web, "delay_s", 0.0),
            frozenset({"ImagesSlow"}),
            # With few threads for slow servers, most images wait or give up.
            frozenset({"QueueOld", "ImagesUnavailable"}),
        ),
        Fault(
            "poison task",
            poison,
            lambda: (start_dead(), drop_letters())[0],
            frozenset({"PoisonTask", "WorkersLost"}),
            lost,
        ),
        Fault(
            "no room for dead letters",
            rubbish,
            drop_letters,
            frozenset({"DeadLettersDropped", "RequestsRefused"}),
        ),
        Fault(
            "Redis may evict",
            lambda: redis.config_set("maxmemory-policy", "allkeys-lru") and None,
            no_eviction,
            frozenset({"RedisEvicts"}),
        ),
    ]


def _break(watched: Watched, fault: Fault) -> Outcome:
    outcome = Outcome(fault)
    watched.pager.fired.clear()
    began = time.monotonic()
    fault.begin()
    while not fault.expected <= watched.pager.fired.keys() and time.monotonic() - began < PATIENCE_S:
        time.sleep(0.2)
    time.sleep(LINGER_S)
    outcome.came = {name: at - began for name, at in watched.pager.fired.items()}
    fault.mend()
    mended = time.monotonic()
    while time.monotonic() - mended < PATIENCE_S:
        if not watched.alerts():
            outcome.calm_s = time.monotonic() - mended
            break
        time.sleep(0.5)
    return outcome


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("fault", "alert", "s until it came", "s until calm", "wrong")
    for outcome in outcomes:
        came = sorted(outcome.came.items(), key=lambda item: item[1])
        missing = outcome.fault.expected - outcome.came.keys()
        table.add_row(
            outcome.fault.name,
            "\n".join([name for name, _ in came] + [f"MISSING {name}" for name in missing]),
            "\n".join(f"{seconds:.0f}" for _, seconds in came),
            "never" if outcome.calm_s is None else f"{outcome.calm_s:.0f}",
            ", ".join(outcome.wrong) or "-",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, help="draw every panel of the dashboard into this file at the end")
    parser.add_argument("--only", help="break only what has this in its name")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="m3agiqa-drill-") as folder, watching(Path(folder)) as watched:
        traffic = Traffic(watched)
        with traffic.running(), Redis.from_url(watched.redis_url, decode_responses=True) as redis:
            began = time.time()
            eventually(lambda: watched.ask("query", query="m3agiqa:verdicts:rate5m > 0")["result"], "verdicts come")
            time.sleep(LINGER_S)
            quiet = watched.alerts()
            print(f"before any fault, {sorted(quiet) or 'nothing'} fires or is pending", flush=True)
            for fault in _faults(watched, traffic, redis):
                if arguments.only is None or arguments.only in fault.name:
                    outcomes.append(_break(watched, fault))
                    Console(width=140).print(_table(outcomes[-1:]))
            empty = panels.draw(watched, began, arguments.picture) if arguments.picture else []
            print("panels without data: " + (", ".join(empty) or "none"))
    Console(width=140).print(_table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) and not quiet else 1


if __name__ == "__main__":
    sys.exit(main())
