"""Delivers verdicts that were decided anew, once each, from the file that they were written to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from m3agiqa import jsonl
from m3agiqa.contract import PolicyRef, Verdict
from m3agiqa.errors import DataError, OutputError
from m3agiqa.outputs import append, write
from m3agiqa.paths import exists
from m3agiqa.quoting import quoted
from m3agiqa.report.submitted import Submitted
from worker.delivery.lanes import Lanes
from worker.delivery.sender import Delivery, Sender, receiver_of
from worker.ops.reporting import failure_of
from worker.settings import Settings
from worker.shares import Shares

#: Threads that deliver.
THREADS = 32
#: Seconds that somebody who watches waits for a receiver at most, between two attempts or for its turn.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Owed:
    """A verdict that one receiver is to have."""

    #: The name of its request: the id, with a tenant `TENANT/ID`.
    request: str
    #: "callback" or "s3".
    kind: str
    url: str
    #: Where its line begins in the file, and how many bytes it has without the line feed.
    start: int
    size: int

    @property
    def name(self) -> tuple[str, str]:
        return self.request, self.kind

    @property
    def lane(self) -> str:
        """What fails together: a bucket, or a URL but for its query, as customers may share a host."""
        return receiver_of(self.url) if self.kind == "s3" else re.split("[?#]", self.url, maxsplit=1)[0]


def owed(verdict: Verdict, request: Submitted | None, start: int, size: int) -> list[Owed]:
    """Where a verdict goes: as its request says, or else as it says itself."""
    said = request or verdict.request
    places = {} if said is None else {"callback": said.callback_url, "s3": said.s3_uri}
    return [Owed(verdict.name, kind, url, start, size) for kind, url in places.items() if url]


class Record:
    """The file that says what was delivered by one policy, so that a run that was killed goes on from there."""

    def __init__(self, path: Path, policy: PolicyRef) -> None:
        """Begin the file, or read it.

        Raises:
            OutputError: it cannot be written, or holds what another policy decided.
            DataError: it is no such file.
        """
        self._path = path
        self.delivered: set[tuple[str, str]] = set()
        if exists(path):
            self.at = self._read(policy)
        else:
            self.at = datetime.now(UTC)
            write(path, jsonl.dump([{"policy": policy.label, "at": self.at.isoformat()}]))

    def _read(self, policy: PolicyRef) -> datetime:
        """What an earlier run delivered. Returns when that decided anew."""
        whole, lines = jsonl.read_grown(self._path)
        try:
            (_, first), *rest = lines
            at = datetime.fromisoformat(first["at"])
            self.delivered = {(line["request_id"], line["kind"]) for _, line in rest}
        except (LookupError, TypeError, ValueError):
            raise DataError(f"{self._path} does not say what was delivered; name another --output") from None
        if first.get("policy") != policy.label:
            other = quoted(first.get("policy"))
            raise OutputError(f"{self._path} is of policy {other}, not {policy.label}; name another --output")
        write(self._path, whole)  # without a line that was cut off
        return at

    def add(self, item: Owed) -> None:
        """Raises: OutputError: it cannot be written."""
        self.delivered.add(item.name)
        append(self._path, json.dumps({"request_id": item.request, "kind": item.kind}) + "\n")


@dataclass
class Tally:
    """What came of deliveries."""

    delivered: int = 0
    #: Deliveries that an earlier run made.
    known: int = 0
    #: Deliveries that failed, and what was said last, by receiver.
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)

    def fail(self, receiver: str, message: str) -> None:
        self.failed[receiver] = self.failed.get(receiver, (0, ""))[0] + 1, message


class Redelivery:
    """Delivers verdicts from `file`, those of one policy, each to its receivers.

    Raises:
        ConfigError: a setting is wrong, as for `Sender`.
    """

    def __init__(self, settings: Settings, file: Path, policy: PolicyRef, record: Record) -> None:
        shares = Shares(
            THREADS,
            per_server=settings.deliver_max_per_host,
            slow_share=settings.slow_share,
            longest_delay_s=PATIENCE_S,
        )
        self._sender = Sender(settings, shares)
        self._digest = policy.digest
        self._file = file
        self._record = record
        self._lanes: Lanes[Owed] = Lanes(
            self._send,
            threads=THREADS,
            per_receiver=settings.deliver_max_per_host,
            retry_delays_s=[delay_s for delay_s in settings.deliver_retry_delays_s if delay_s <= PATIENCE_S],
        )
        self._handle = -1

    def run(self, items: Iterable[Owed], tally: Tally, ended: Callable[[], None]) -> None:
        """Deliver what was not delivered before, and write down what was. `ended` is called for each in the end.

        Raises:
            OutputError: the record cannot be written.
        """

        def settle(item: Owed, error: Exception | None) -> None:
            if error is None:
                self._record.add(item)
                tally.delivered += 1
            else:
                tally.fail(receiver_of(item.url), failure_of(error, item.request).message)
            ended()

        self._handle = os.open(self._file, os.O_RDONLY)
        try:
            self._lanes.run(self._new(items, tally, ended), settle)
        finally:
            os.close(self._handle)

    def _new(self, items: Iterable[Owed], tally: Tally, known: Callable[[], None]) -> Iterator[tuple[str, Owed]]:
        names = set(self._record.delivered)
        for item in items:
            if item.name not in names:
                names.add(item.name)
                yield item.lane, item
            else:
                tally.known += item.name in self._record.delivered
                known()

    def _send(self, item: Owed) -> None:
        body = os.pread(self._handle, item.size, item.start).decode()
        submitted_at = Verdict.model_validate_json(body).submitted_at
        self._sender.send(Delivery(item.request, item.kind, item.url, body, submitted_at, redecided_by=self._digest))
