"""`m3agiqa-submit status`: how the queue is, on one screen, and as an exit code for scripts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from m3agiqa import console
from m3agiqa.client import Client
from m3agiqa.queue import keys
from m3agiqa.queue.overview import Overview
from m3agiqa.quoting import quoted
from producers.cli_dead import as_json

#: Seconds between the two looks that a rate is made of.
_RATE_S = 1.0
#: What happens per second, as it is shown, and its name among the counts.
_RATES = {"admitted": "requests_admitted", "scored or failed": "verdicts", "settled": "requests_settled"}
#: Rows of a list that are shown.
_ROWS = 10
#: Characters of a receiver that are shown.
_RECEIVER_CHARS = 80


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object; counts instead of rates")
    parser.add_argument(
        "--watch",
        type=console.number(least=0.1, most=3600),
        metavar="SECONDS",
        help="look again and again, until Ctrl-C",
    )
    parser.add_argument(
        "--max-age",
        type=console.number(),
        default=300.0,
        metavar="SECONDS",
        help="end with exit code 3 if the oldest request has waited longer (default: 300)",
    )
    parser.set_defaults(run=_status)


def _status(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.watch is None:
        now = client.overview()
        if arguments.json:
            print(as_json(now))
        else:
            time.sleep(_RATE_S)
            before, now = now, client.overview()
            Console(soft_wrap=True).print(_screen(before, now, arguments.max_age))
        return console.ATTENTION if _complaints(now, arguments.max_age) else console.DONE
    return _watch(client, arguments)


def _watch(client: Client, arguments: argparse.Namespace) -> int:
    """Look until a signal ends the process."""
    looks = _looks(client, arguments.watch)
    if arguments.json:
        for now in looks:
            print(as_json(now), flush=True)
    before = next(looks)
    with Live(_screen(before, before, arguments.max_age), auto_refresh=False, screen=True) as live:
        for now in looks:
            live.update(_screen(before, now, arguments.max_age), refresh=True)
            before = now
    return console.DONE


def _looks(client: Client, pause_s: float) -> Iterator[Overview]:
    while True:
        yield client.overview()
        time.sleep(pause_s)


def _complaints(now: Overview, max_age_s: float) -> list[str]:
    """What needs an operator's attention."""
    found = []
    if sum(now.waiting.values()) and not now.workers_of(keys.SCORE_QUEUE):
        found.append("requests wait, and no worker of `score` is there")
    if now.deliveries_waiting and not now.workers_of(keys.DELIVER_QUEUE):
        found.append("verdicts wait, and no worker of `deliver` is there")
    if (oldest_s := max(now.oldest_age_s.values(), default=0.0)) > max_age_s:
        found.append(f"the oldest request has waited for {oldest_s:.0f} s")
    return found


def _screen(before: Overview, now: Overview, max_age_s: float) -> Group:
    complaints = [Text(complaint, style="bold red") for complaint in _complaints(now, max_age_s)]
    queue = Table("priority", "waiting", "oldest, s", title="queue")
    for priority, waiting in now.waiting.items():
        queue.add_row(str(priority), f"{waiting:,}", f"{now.oldest_age_s.get(priority, 0.0):.0f}")
    lanes = Table("tenant", "waiting behind its 16", title=f"{len(now.laned)} tenants wait in lanes")
    for tenant, waiting in sorted(now.laned.items(), key=lambda item: -item[1])[:_ROWS]:
        lanes.add_row(Text(quoted(tenant)), f"{waiting:,}")
    flow = Table("owed", "overdue", "with workers", "to deliver", *(f"{name}/s" for name in _RATES), title="tasks")
    numbers = (now.tasks_owed, now.tasks_overdue, now.leases_held, now.deliveries_waiting)
    flow.add_row(*(f"{number:,}" for number in numbers), *(_rate(before, now, name) for name in _RATES.values()))
    workers = Table("worker", "queues", "model", "tasks", "version", title=f"{len(now.workers)} workers")
    for worker in now.workers[:_ROWS]:
        told = (worker.name, ",".join(worker.queues), worker.model, str(worker.held), worker.version)
        workers.add_row(*(Text(quoted(word)) for word in told))
    receivers = Table("receiver", "failed", title=f"{len(now.receivers_failing)} receivers fail")
    for name, ago_s in list(now.receivers_failing.items())[:_ROWS]:
        receivers.add_row(Text(quoted(name, _RECEIVER_CHARS)), f"{ago_s:.0f} s ago")
    failures = {field.partition("|")[2]: n for field, n in now.counts.items() if field.startswith("failures|")}
    return Group(
        *complaints,
        queue,
        lanes,
        flow,
        workers,
        receivers,
        _by_code("dead letters", now.dead_letters),
        _by_code("failed", failures),
    )


def _by_code(title: str, counts: Mapping[str, int]) -> Table:
    table = Table("code", "number", title=f"{sum(counts.values()):,} {title}")
    for code, count in sorted(counts.items(), key=lambda item: -item[1])[:_ROWS]:
        table.add_row(Text(quoted(code)), f"{count:,}")
    return table


def _rate(before: Overview, now: Overview, name: str) -> str:
    elapsed_s = now.taken_at - before.taken_at
    return f"{(now.count(name) - before.count(name)) / elapsed_s:.1f}" if elapsed_s > 0 else "-"
