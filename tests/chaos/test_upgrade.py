"""The rolling upgrade of docs/operations.md: while requests come in, new workers start, and old ones drain.

By default the old workers are of this code under another version number. UPGRADE_FROM names a checkout of an older
version to start them from.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis

from m3agiqa import __version__
from producers import Client, State
from tests.chaos.platform import Platform, open_platform
from tests.chaos.test_chaos import check, durable_valkey, settings_of, states, submit
from tests.support import Worker, eventually, start_worker

OLD_CODE = os.environ.get("UPGRADE_FROM")
OLD_VERSION = "0.0.9"
#: Celery looks for an application in the current folder first.
_FROM = f"import os, sys\nos.chdir({OLD_CODE!r})\nsys.path.insert(0, {OLD_CODE!r})\n" if OLD_CODE else ""
OLD = f"{_FROM}import m3agiqa\nm3agiqa.__version__ = {OLD_VERSION!r}"
QUEUES = ("score", "deliver")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def load(client: Client, platform: Platform) -> Iterator[list[str]]:
    """Submit requests all the time inside the block; their names."""
    names: list[str] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.2):
            names.append(str(len(names)))
            # Old workers may be of a version that does not know this field.
            submit(client, platform, names[-1:], traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield names
    finally:
        over.set()
        thread.join()


def begun_by(client: Client, names: list[str], worker: Worker) -> int:
    """Tasks that a worker began."""
    mark = f":{worker.process.pid}"
    return sum(line.endswith(mark) and " begun by " in line for name in names for line in client.history(name))


def versions(client: Client, queue: str) -> set[str]:
    return {seen.version for seen in client.overview().workers if queue in seen.queues}


def test_a_rolling_upgrade_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        # given old workers, and requests that keep coming
        valkey = stack.enter_context(durable_valkey(tmp_path / "valkey"))
        platform = stack.enter_context(open_platform(seed=1))
        platform.calm.set()
        client = stack.enter_context(Client(f"{valkey.connection_url}/0"))
        redis = stack.enter_context(Redis.from_url(f"{valkey.connection_url}/0", decode_responses=True))

        def start(age: str, queue: str, prelude: str = "") -> Worker:
            settings = settings_of(valkey, platform, "fake:0.1")
            worker = start_worker(tmp_path / f"{age}-{queue}", queue, concurrency=8, prelude=prelude, **settings)  # type: ignore[arg-type]
            stack.callback(worker.kill)
            worker.wait_ready(queue)
            return worker

        old = {queue: start("old", queue, OLD) for queue in QUEUES}
        with load(client, platform) as names:
            eventually(lambda: states(redis, names)[State.SETTLED] > 3, "old workers work")
            for queue in QUEUES:
                # when a new worker is ready, and the old one drains
                new = start("new", queue)
                eventually(lambda new=new: begun_by(client, names[:], new), "the new worker works beside the old one")
                eventually(lambda queue=queue: versions(client, queue) == {OLD_VERSION, __version__}, "both are seen")
                assert old[queue].terminate() == 0
                assert begun_by(client, names[:], old[queue])
            # and some more come, which none but new workers see
            last = len(names)
            eventually(lambda: states(redis, names[last:])[State.SETTLED] > 3, "new workers go on alone")
        eventually(lambda: set(states(redis, names)) <= {State.SETTLED, State.DEAD}, "all are settled or dead letters")
        counts = check(client, platform, redis, names)
        events = [line for name in names for line in client.history(name)]
    # then each has one verdict, its receiver got it once, and no run was lost
    assert counts["requests"] == len(names)
    for trouble in ("lost", "with two different verdicts", "callbacks beyond the first a receiver took"):
        assert counts[trouble] == 0, trouble
    assert not [line for line in events if "was lost" in line or "poison" in line]
