"""The ledger in Redis: every request that is owed an answer, so that no crash between two commands loses one.

A *task* is one thing to do: scoring a request (its name is the request's id) or one delivery of its verdict
(`ID:callback`, `ID:s3`). What is to be done stands in the ledger, which workers alone write. Messages carry a name and
nothing else: one that is forged, repeated, lost or late wakes a task that is owed anyway, or nobody.

    admit ──▶ queued ──claim──▶ with a worker ──┬─ publish (scored) ─▶ gone; a task for each delivery is queued
                ▲                  │            ├─ settle (delivered) ─▶ gone; with the last one, settled
                │                  │            ├─ postpone, release ─▶ waits until it is due ─┐
                │                  │            └─ bury ─▶ dead letter ── replay ─▶ queued     │
                │                  ▼                                                           │
                └──────────────── sweep ◀── overdue: lost on its way, its worker died, or due again

An entry is a hash:

    state                 see `State`
    request, content      the request as JSON while anything is owed, and what tells its repetition from another request
    priority              where its name is queued
    verdict               as JSON, while deliveries are owed: what is signed and sent is this
    score, callback, s3   of each task that is still owed, how many attempts have ended
    TASK.queued           when its name was queued; 0 once a worker took it, and while it waits to be tried again, -1
                          while it waits because several workers were lost with it
    TASK.run, TASK.fair   how often a worker began it, and which of these runs last ended properly
    buried                how many of its tasks are dead letters
    history               a line for everything above, the newest last

Each owed task has one time at which somebody must look after it (the sorted set `keys.OWED`): soon after it was queued,
after the lease of the worker that has it, or when it is due again. `sweep` queues what is overdue, what was lost in
front of all. A name that is still waiting there is told by the time at which its list's oldest was queued: along a list
these times grow, so that a long queue never fills with copies.

A worker that was thought dead and comes back may still publish, if it is the first to do so. Anything else it does is
ignored, because its run of the task is not the last one. A run that never ends properly took its worker along, or went
with it. So many of them in a row make a poison task; from the second on, tasks lost together come again apart.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from m3agiqa.contract import ScoreRequest, Verdict
from m3agiqa.errors import Busy, InternalError, NewerVersion, NotOwed, QueueUnavailable, RequestInvalid
from m3agiqa.queue import keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.connection import SILENCE_S, Connection
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.inbox import Admission
from m3agiqa.queue.state import State

logger = logging.getLogger(__name__)

#: Seconds: work already done is worth waiting for a Redis that restarts.
PATIENCE_S = 60.0
#: Overdue tasks queued by one run of the script, which blocks Redis meanwhile.
SWEPT_AT_ONCE = 100
#: Seconds that a request of a later version is left to others.
_NEWER_S = 5.0


class Ledger:
    """What workers do to the ledger. Safe to share between threads.

    Every method raises QueueUnavailable if Redis stays away for about a minute.

    Args:
        redis_url: of the Redis.
        lease_s: seconds for which a task is a worker's, unless it says again that it has it.
        longest_run_s: seconds after which it may not say so any more.
        max_lost_runs: runs in a row that never ended, from which on a task is poison.
        result_ttl_s: seconds for which verdicts are kept, and settled requests remembered.
        dead_letters_bytes: kept of dead letters at most; then the oldest ones are dropped.
        silence_s: seconds without an answer after which a connection is given up.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        lease_s: float = 30.0,
        longest_run_s: float = 600.0,
        max_lost_runs: int = 3,
        result_ttl_s: int = 86_400,
        dead_letters_bytes: int = 64 * 2**20,
        silence_s: float = SILENCE_S,
    ) -> None:
        #: Connection to Redis, also for what is kept beside the ledger.
        self.connection = Connection(redis_url, patience_s=PATIENCE_S, silence_s=silence_s)
        self._run = self.connection.run
        self._longest_run_s = longest_run_s
        self.lease_s = min(lease_s, longest_run_s)
        self._max_lost_runs = max_lost_runs
        self._result_ttl_s = result_ttl_s
        self._dead_letters_bytes = dead_letters_bytes
        self._admission = Admission(self.connection, result_ttl_s=result_ttl_s, dead_letters_bytes=dead_letters_bytes)
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Claim] = {}

    @contextmanager
    def claim(self, task: str) -> Iterator[Claim]:
        """Have a task for `lease_s` seconds, and while `renew` is called.

        What leaves the block as `Busy` puts the task off, QueueUnavailable gives it back, and what nobody foresaw makes
        it a dead letter; all of them go on to the caller.

        Raises:
            NotOwed: it is done, given up, or unknown; somebody has it; it waits until it is due; or it is for workers
                of a later version.
        """
        claim = self._take(task)
        with self._lock:
            self._held[task, claim.run] = claim
        try:
            yield claim
        except Busy as busy:
            claim.release(busy.delay_s, why=str(busy))
            raise
        except QueueUnavailable:
            # If Redis does not take that either, the lease ends by itself.
            with suppress(QueueUnavailable):
                claim.release(why="its outcome could not be kept")
            raise
        except Exception as error:
            logger.exception("a task of %s becomes a dead letter", claim.kind)
            claim.bury(error)
            raise
        finally:
            with self._lock:
                self._held.pop((task, claim.run), None)

    def held(self) -> list[Claim]:
        """The tasks that this process has."""
        with self._lock:
            return list(self._held.values())

    def _take(self, task: str) -> Claim:
        outcome, *told = self._run("claim", [task, self.lease_s, self._max_lost_runs, _whoami()])
        if outcome == "unread":
            logger.error("an entry of the ledger cannot be read; %s names it", keys.UNREAD)
        if outcome not in ("begun", "poison"):
            raise NotOwed(f"its task is {outcome}")
        run, attempts, request, verdict, history = told
        return Claim(
            self,
            task,
            task.partition(":")[2] or "score",
            int(run),
            int(attempts) + 1,
            self._read(task, int(run), request),
            verdict,
            tuple(history.splitlines()),
            outcome == "poison",
        )

    def _read(self, task: str, run: int, request: str) -> ScoreRequest:
        """Raises NotOwed for what is not to be read here."""
        try:
            return ScoreRequest.parse(json.loads(request))
        except NewerVersion as newer:
            self._run("postpone", [task, run, 0, 1, _NEWER_S, str(newer)])
            raise NotOwed(str(newer)) from None
        except (ValueError, RecursionError, RequestInvalid):
            letter = DeadLetter(
                queue=keys.SCORE_QUEUE,
                request_id=task.partition(":")[0],
                kind=task.partition(":")[2] or "score",
                code=InternalError.code,
                reason="its request in the ledger cannot be read",
                attempts=1,
                task=task,
                # What is no UTF-8 came as halves of surrogate pairs.
                message=request.encode(errors="surrogateescape").decode(errors="backslashreplace"),
            )
            self._run("bury", [task, run, letter.id, letter.model_dump_json(), self._dead_letters_bytes])
            raise NotOwed(letter.reason) from None

    def mark(self, claim: Claim, state: State) -> None:
        self._run("mark", [claim.task, claim.run, state])

    def publish(self, claim: Claim, verdict: Verdict, letter: DeadLetter | None) -> bool:
        request = claim.request
        published = self._run(
            "publish",
            [
                request.request_id,
                request.fingerprint,
                request.to_json(),
                verdict.model_dump_json(),
                ",".join(request.deliveries),
                self._result_ttl_s,
                *(("", "") if letter is None else (letter.id, letter.model_dump_json())),
                self._dead_letters_bytes,
            ],
        )
        if published == 2:
            logger.error("Redis had lost request %s; its verdict is published all the same", request.request_id)
        return bool(published)

    def settle(self, claim: Claim) -> None:
        self._run("settle", [claim.task, self._result_ttl_s])

    def postpone(self, claim: Claim, delay_s: float, why: str, *, attempted: bool = False, fair: bool = True) -> None:
        self._run("postpone", [claim.task, claim.run, int(attempted), int(fair), delay_s, why])

    def bury(self, claim: Claim, letter: DeadLetter) -> None:
        self._run("bury", [claim.task, claim.run, letter.id, letter.model_dump_json(), self._dead_letters_bytes])

    def renew(self) -> None:
        """Keep what this process has for another `lease_s` seconds, but nothing for longer than `longest_run_s`."""
        now = time.monotonic()
        going = [claim for claim in self.held() if now - claim.since < self._longest_run_s]
        if going:
            self._run("renew", [self.lease_s, *(word for claim in going for word in (claim.task, claim.run))])

    def sweep(self) -> int:
        """Queue what is overdue; returns how many tasks were overdue, `SWEPT_AT_ONCE` at most.

        Each is queued once, however many call. What cannot be read is set aside.
        """
        overdue, unread = self._run("sweep", [SWEPT_AT_ONCE])
        if unread:
            logger.error("%d entries of the ledger cannot be read; %s names them", unread, keys.UNREAD)
        return int(overdue)

    def wait(self, priority: int, timeout_s: int) -> bool:
        """Whether anything lies in the inbox of this priority, at the latest after `timeout_s` seconds."""
        return self._admission.wait(priority, timeout_s)

    def admit(self, priority: int) -> int:
        """Take up what comes next in the inbox of this priority, up to 100 entries; returns how many."""
        return self._admission.admit(priority)

    def close(self) -> None:
        self.connection.close()


@cache
def _whoami() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
