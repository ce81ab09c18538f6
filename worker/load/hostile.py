"""`python -m worker.load.hostile`: measures what hostile images and servers cost a worker, and its other callers.

It starts a Valkey and both workers on loopback. A neighbour submits a small image some times a second: first alone,
then while many copies of each of the `bombs` are submitted at once, and with `--servers` beside slow servers too. All
of it runs on this machine, so the times are upper bounds.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from math import inf
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from m3agiqa.errors import M3AGIQAError
from m3agiqa.images import noise_image
from producers import ScoreRequest
from worker.demo.processes import DemoFailed
from worker.load.bombs import BOMBS
from worker.load.memory import Memory
from worker.load.rig import STUCK_AFTER_S, Arrived, Receiver, Rig, rig
from worker.load.slow_servers import ADDRESSES, SlowServers

#: Seconds for which the neighbour submits at least.
_LEAST_S = 5.0
#: Seconds for which the neighbour is alone at the start: a warm-up that does not count, and the part that does.
_WARM_UP_S, _QUIET_S = 3.0, 10.0
#: Seconds between two looks whether the remaining callbacks have come.
_LOOK_S = 0.1
#: Name for all bombs together.
ALL = "all"
_NEIGHBOUR = "neighbour"
#: Outcome of a request that was not answered in time.
PUT_OFF = "put off"

#: Requests with images from servers that send a byte a second, and requests with callbacks to servers that take
#: seconds.
_DRIPS, _CALLBACKS = 100, 200


@dataclass(frozen=True)
class Attack:
    name: str
    #: Bytes of its files, each counted once.
    size: int
    requests: Sequence[ScoreRequest]
    #: Ends the attack's waits once its time is over.
    end: Callable[[], None] = lambda: None
    #: Whether the neighbour begins only once the attack's images are scored, so that it waits for receivers alone.
    scored_first: bool = False


@dataclass(frozen=True)
class Suffered:
    """What an attack cost. Times are seconds from the submission of a request to its callback."""

    name: str
    size: int
    #: Requests by outcome: "scored", the code of a failure, or PUT_OFF.
    outcomes: dict[str, int]
    #: None if at least half of them were put off.
    median_s: float | None
    #: Most bytes that the worker and its decoders took, and how many more than before the attack.
    peak_bytes: int
    more_bytes: int
    neighbour_p50_s: float
    neighbour_p99_s: float
    #: The neighbour's requests, and those of them that failed.
    neighbours: int
    neighbours_failed: int


class HostileImages:
    """Serves the neighbour's image and the bombs, each of which is made on its first request and kept in a folder.

    The bomb that was served last stays in memory: to read it for each of many copies would take more of this machine
    than the worker that is measured.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        neighbour = io.BytesIO()
        noise_image(256, 256, 1).rgb.save(neighbour, "PNG")
        self._neighbour = neighbour.getvalue()
        self._read = lru_cache(maxsize=1)(lambda name: self._file(name).read_bytes())

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def serve(self, path: str) -> bytes:
        """The image NAME for the path `/NAME/NUMBER`."""
        name = path.split("/")[1]
        return self._neighbour if name == _NEIGHBOUR else self._read(name)

    def _file(self, name: str) -> Path:
        file = self._folder / name
        if not file.exists():
            file.write_bytes(BOMBS[name]())
        return file


_numbers = count()


def request(endpoint: str, name: str, seconds: float, *, callback: str | None = None) -> ScoreRequest:
    """A request with a URL and a prompt of its own, which expires after so many seconds."""
    number = next(_numbers)
    return ScoreRequest(
        image_url=f"http://{endpoint}/{name}/{number}",
        prompt=f"what {name} shows, number {number}",
        callback_url=f"http://{callback or endpoint}/verdicts",
        expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
    )


def measure(platform: Rig, attack: Attack, seconds: float, neighbours_per_s: float) -> Suffered:
    """Submit the attack, and the neighbour's requests until the attack is answered or so many seconds are over.

    Raises:
        DemoFailed: callbacks do not come even after the attack has ended.
    """
    receiver, client, memory = platform.receiver, platform.client, Memory(platform.score_pid)
    arrived: dict[str, Arrived] = {}
    neighbours: set[str] = set()
    with memory.watched():
        copies = client.submit_many(attack.requests)
        for copy in copies if attack.scored_first else ():
            client.result(copy, STUCK_AFTER_S)
        began = time.monotonic()
        while (past := time.monotonic() - began) < seconds and (past < _LEAST_S or not arrived.keys() >= set(copies)):
            neighbours |= set(client.submit_many([request(receiver.endpoint, _NEIGHBOUR, 2 * STUCK_AFTER_S)]))
            time.sleep(max(0.0, began + len(neighbours) / neighbours_per_s - time.monotonic()))
            arrived |= {each.request_id: each for each in receiver.take()}
        in_time = [arrived[name] for name in copies if name in arrived and arrived[name].error != "expired"]
        attack.end()
        _finish(receiver, arrived, {*copies, *neighbours})
    latencies_s = sorted([each.latency_s for each in in_time] + [inf] * (len(copies) - len(in_time)))
    outcomes = Counter(each.error or each.status for each in in_time)
    if put_off := len(copies) - len(in_time):
        outcomes[PUT_OFF] = put_off
    cuts = quantiles([arrived[name].latency_s for name in neighbours], n=100, method="inclusive")
    middle_s = median(latencies_s) if latencies_s else inf
    return Suffered(
        name=attack.name,
        size=attack.size,
        outcomes=dict(outcomes.most_common()),
        median_s=None if middle_s == inf else middle_s,
        peak_bytes=memory.peak,
        more_bytes=memory.peak - memory.before,
        neighbour_p50_s=cuts[49],
        neighbour_p99_s=cuts[98],
        neighbours=len(neighbours),
        neighbours_failed=sum(arrived[name].status != "scored" for name in neighbours),
    )


def _finish(receiver: Receiver, arrived: dict[str, Arrived], names: set[str]) -> None:
    """Wait for the remaining callbacks, so that they weigh on no other measurement."""
    last = time.monotonic()
    while missing := names - arrived.keys():
        if came := receiver.take():
            arrived |= {each.request_id: each for each in came}
            last = time.monotonic()
        elif time.monotonic() - last > STUCK_AFTER_S:
            raise DemoFailed(f"{len(missing)} of {len(names)} callbacks did not come for {STUCK_AFTER_S:g} s")
        time.sleep(_LOOK_S)


def images_attack(platform: Rig, images: HostileImages, names: Sequence[str], copies: int, seconds: float) -> Attack:
    """An attack with `copies` copies of each bomb of `names`."""
    sizes = [images.size(name) for name in names]
    requests = [request(platform.receiver.endpoint, name, seconds) for name in names for _ in range(copies)]
    return Attack(names[0] if len(names) == 1 else ALL, sum(sizes), requests)


def server_attacks(platform: Rig, slow: SlowServers, seconds: float) -> Iterator[Attack]:
    """Attacks by slow servers: images that never come, from one address and from many, and slow callbacks to one
    address under many names. Between them, as many callbacks that are answered at once, to compare with.
    """
    endpoint = platform.receiver.endpoint
    for name, addresses in (("images from 1 slow address", slow.addresses[:1]), ("from 40", slow.addresses)):
        slow.slow_again(platform.receiver)
        drips = [
            request(addresses[number % len(addresses)], "drip", seconds, callback=endpoint) for number in range(_DRIPS)
        ]
        yield Attack(name, 0, drips, slow.hurry)
    prompt_requests = [request(endpoint, _NEIGHBOUR, seconds) for _ in range(_CALLBACKS)]
    yield Attack("callbacks answered at once", 0, prompt_requests)
    for name, scored_first in (("callbacks to 40 slow names", False), ("the same, once scored", True)):
        slow.slow_again(platform.receiver)
        callbacks = [
            request(endpoint, _NEIGHBOUR, seconds, callback=slow.names[number % ADDRESSES])
            for number in range(_CALLBACKS)
        ]
        yield Attack(name, 0, callbacks, slow.hurry, scored_first)


def run(arguments: argparse.Namespace) -> Iterator[Suffered]:
    """Measure, the neighbour alone first.

    Raises:
        DemoFailed: a worker did not come up, or is stuck.
    """
    seconds, per_s = arguments.seconds, arguments.neighbours_per_s
    with ExitStack() as stack:
        images = HostileImages(Path(stack.enter_context(TemporaryDirectory(prefix="m3agiqa-bombs-"))))
        slow = SlowServers()
        stack.enter_context(slow.serving())
        platform = stack.enter_context(
            rig(
                images.serve,
                [*slow.addresses, *slow.names],
                score_threads=arguments.threads,
                model=arguments.model,
                # As by default: fewer than threads that deliver.
                deliver_max_per_host=8,
            )
        )
        measure(platform, Attack("", 0, []), _WARM_UP_S, per_s)
        yield measure(platform, Attack("(no attack)", 0, []), _QUIET_S, per_s)
        for name in arguments.only:
            names, copies = (list(BOMBS), 1) if name == ALL else ([name], arguments.repeat)
            yield measure(platform, images_attack(platform, images, names, copies, seconds), seconds, per_s)
        if arguments.servers:
            for attack in server_attacks(platform, slow, seconds):
                yield measure(platform, attack, seconds, per_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table; 0 if every request was answered in the end."""
    parser = argparse.ArgumentParser(prog="python -m worker.load.hostile", description=main.__doc__)
    parser.add_argument("--model", default="fake", metavar="PROFILE", help="what scores the images (fake)")
    parser.add_argument("--threads", type=int, default=32, metavar="N", help="threads of the score worker (32)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="seconds for each bomb at most (30)")
    parser.add_argument(
        "--neighbours-per-s", type=float, default=5.0, metavar="N", help="the neighbour's requests a second (5)"
    )
    parser.add_argument("--repeat", type=int, default=24, metavar="N", help="copies of a bomb at a time (24)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[*BOMBS, ALL],
        choices=[*BOMBS, ALL],
        metavar="NAME",
        help=f"these bombs alone; {ALL} is one of each at a time. There are {', '.join(BOMBS)}",
    )
    parser.add_argument("--servers", action="store_true", help="beside servers that take their time as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each instead")
    arguments = parser.parse_args(argv)
    table = Table("beside", "bytes", "came to", "median s", "MB more", "MB", "neighbour p50 s", "p99 s")
    log = Console(stderr=True)
    try:
        for suffered in run(arguments):
            log.print(suffered.name, style="dim")
            if arguments.json:
                print(json.dumps(asdict(suffered)), flush=True)
            table.add_row(*_row(suffered))
    except (DemoFailed, M3AGIQAError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments.json:
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def _row(suffered: Suffered) -> tuple[str, ...]:
    failed = f" ({suffered.neighbours_failed} failed)" if suffered.neighbours_failed else ""
    return (
        suffered.name,
        f"{suffered.size:,}",
        ", ".join(f"{times} {outcome}" for outcome, times in suffered.outcomes.items()),
        "-" if suffered.median_s is None else f"{suffered.median_s:.2f}",
        f"{suffered.more_bytes / 1e6:.0f}",
        f"{suffered.peak_bytes / 1e6:.0f}",
        f"{suffered.neighbour_p50_s:.3f}",
        f"{suffered.neighbour_p99_s:.3f}{failed}",
    )


if __name__ == "__main__":
    sys.exit(main())
