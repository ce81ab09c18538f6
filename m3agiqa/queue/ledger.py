"""The ledger in Redis: every request that is owed an answer, so that no crash between two commands loses one.

A *task* is one thing to do: to score a request (its name is the request's: the id, or `TENANT/ID`), or to deliver
its verdict once (`NAME:callback`, `NAME:s3`). The ledger, which workers alone write, says what to do. A message carries
a task's name alone: a message that is forged, repeated, lost or late wakes a task that is owed anyway, or none.

    admit ──▶ queued ──claim──▶ with a worker ──┬─ publish (scored) ─▶ gone; a task for each delivery is queued
                ▲                  │            ├─ settle (delivered) ─▶ gone; with the last one, settled
                │                  │            ├─ postpone, release ─▶ waits until it is due ─┐
                │                  │            └─ bury ─▶ dead letter ── replay ─▶ queued     │
                │                  ▼                                                           │
                └──────────────── sweep ◀── overdue: lost on its way, its worker died, or due again

An entry is a hash:

    state                 see `State`
    request, content      the request as JSON while anything is owed, and its fingerprint, which a repetition shares
    priority              which list of the score queue its name goes on
    verdict               as JSON while deliveries are owed: exactly this is signed and sent
    score, callback, s3   attempts that have ended, for each task that is still owed
    TASK.queued           when the name was queued; 0 once a worker has the task, and while it waits for its next
                          attempt; -1 while it waits alone, because several workers were lost with it
    score.lane            when the name went to its tenant's lane, if it did, until a worker has it; equal to
                          score.queued as long as it lies there
    TASK.run, TASK.fair   how many runs were begun, and the number of the last run that ended properly
    buried                how many of its tasks are dead letters
    cancelled, retries    1 if it was taken back; how often it was tried anew after a failure
    batch                 the caller's label of requests that belong together
    scores, objects       keys of its remembered scores, and objects that were written, a line each: what to erase
    image                 address of the image, if it lies in S3: perhaps its producer uploaded it
    history               a line for each event, the newest last

Each owed task has a time at which some worker must look after it (the sorted set `keys.OWED`): soon after it was
queued, at the end of its worker's lease, or when its next attempt is due. `sweep` queues tasks that are overdue, lost
ones first. It leaves out a task whose name is still on its list: names lie there in the order in which they were
queued, so a name that was queued after the oldest one there is there too. So a long queue does not fill with copies.

No tenant's backlog keeps another from its turn: at most 16 names of a tenant and a priority lie on the list, and those
behind wait in a lane of the tenant's own. When one of the 16 leaves the list, because a worker began it or it was taken
back, the lane's next one goes to the list's end. Requests without a tenant are together one more tenant. A set says
which names are the 16; a sweep compares it with the ledger, so that a lane whose set is wrong moves on.

A worker that was taken for dead and comes back may still publish, if it is the first. The ledger ignores anything else
from it, because its run of the task is no longer the last one. A run that does not end properly killed its worker, or
died with it: several in a row make a poison task, and from the second on, tasks that were lost together run apart.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from m3agiqa.contract import Decision, ScoreRequest, Verdict
from m3agiqa.errors import Busy, InternalError, NewerVersion, NotOwed, QueueUnavailable, RequestInvalid
from m3agiqa.queue import keys
from m3agiqa.queue.claim import Claim
from m3agiqa.queue.connection import SILENCE_S, Connection
from m3agiqa.queue.dead import DeadLetter
from m3agiqa.queue.inbox import Admission
from m3agiqa.queue.state import State
from m3agiqa.tenants import Tenants

logger = logging.getLogger(__name__)

#: Seconds for which a command is tried again: work that is done is worth waiting for a Redis that restarts.
PATIENCE_S = 60.0
#: Overdue tasks that one run of the script queues at most, as Redis does nothing else meanwhile.
SWEPT_AT_ONCE = 100
#: Seconds for which dead letters are kept: prompts and URLs stand in them.
DEAD_LETTERS_TTL_S = 30 * 86_400
#: Seconds for which a request of a later version is left to workers of that version.
_NEWER_S = 5.0


class Ledger:
    """All that workers do with the ledger. Safe to share between threads.

    Every method raises QueueUnavailable if Redis stays away for about a minute.

    Args:
        redis_url: URL of the Redis.
        lease_s: seconds for which a worker has a task, unless it renews the lease.
        longest_run_s: seconds after which it cannot renew the lease any more.
        max_lost_runs: runs in a row that do not end, after which a task is poison.
        result_ttl_s: seconds for which verdicts are kept and settled requests remembered.
        dead_letters_bytes: bytes of dead letters to keep; beyond, the oldest are dropped.
        dead_letters_ttl_s: seconds for which dead letters are kept.
        silence_s: seconds without an answer after which a connection is given up.
        tenants, on_failure: see `Admission`.
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
        dead_letters_ttl_s: int = DEAD_LETTERS_TTL_S,
        silence_s: float = SILENCE_S,
        tenants: Tenants | None = None,
        on_failure: Callable[[str | None], Decision] = lambda _: Decision.REVIEW,
    ) -> None:
        #: The connection, which others may use for what they keep beside the ledger.
        self.connection = Connection(redis_url, patience_s=PATIENCE_S, silence_s=silence_s)
        self._run = self.connection.run
        self._longest_run_s = longest_run_s
        self.lease_s = min(lease_s, longest_run_s)
        self._max_lost_runs = max_lost_runs
        self._result_ttl_s = result_ttl_s
        self._dead_letters_bytes = dead_letters_bytes
        self._dead_letters_ttl_s = dead_letters_ttl_s
        self._admission = Admission(
            self.connection,
            result_ttl_s=result_ttl_s,
            dead_letters_bytes=dead_letters_bytes,
            tenants=tenants,
            on_failure=on_failure,
        )
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Claim] = {}

    @contextmanager
    def claim(self, task: str) -> Iterator[Claim]:
        """Lease a task for `lease_s` seconds, and longer while `renew` is called.

        If the block raises `Busy`, the task is put off; if QueueUnavailable, it is given back; if any other error, it
        becomes a dead letter. The error goes on to the caller in each case.

        Raises:
            NotOwed: the task is done, given up or unknown; another worker has it; it is not due yet; or only workers of
                a later version can read it.
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
            # If Redis does not take this either, the lease ends by itself.
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
        """The claims that this process has now."""
        with self._lock:
            return list(self._held.values())

    def _take(self, task: str) -> Claim:
        outcome, *told = self._run("claim", [task, self.lease_s, self._max_lost_runs, whoami()])
        if outcome == "unread":
            logger.error("an entry of the ledger cannot be read; %s names it", self.connection.key(keys.UNREAD))
        if outcome not in ("begun", "poison"):
            raise NotOwed(f"its task is {outcome}")
        run, attempts, request, verdict, history, retries = told
        return Claim(
            self,
            task,
            task.partition(":")[2] or "score",
            int(run),
            int(attempts) + 1,
            self._read(task, int(run), request),
            verdict,
            tuple(history.splitlines()),
            int(retries),
            outcome == "poison",
        )

    def _read(self, task: str, run: int, request: str) -> ScoreRequest:
        """Parse a task's request. Raises NotOwed if a later version must read it, or if nothing can."""
        try:
            return ScoreRequest.parse(json.loads(request))
        except NewerVersion as newer:
            self._run("postpone", [task, run, 0, 1, _NEWER_S, str(newer), ""])
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
                # Bytes that are no UTF-8 came as halves of surrogate pairs.
                message=request.encode(errors="surrogateescape").decode(errors="backslashreplace"),
            )
            self._bury(task, run, letter)
            raise NotOwed(letter.reason) from None

    def mark(self, claim: Claim, state: State, event: str) -> None:
        self._run("mark", [claim.task, claim.run, state, event])

    def publish(
        self, claim: Claim, verdict: Verdict, letter: DeadLetter | None, remembered: Sequence[str] = ()
    ) -> bool:
        request = claim.request
        published = self._run(
            "publish",
            [
                request.name,
                request.fingerprint,
                request.to_json(),
                verdict.model_dump_json(),
                ",".join(request.deliveries),
                self._result_ttl_s,
                *(("", "") if letter is None else (letter.id, letter.model_dump_json())),
                self._dead_letters_bytes,
                "\n".join(remembered),
                claim.retries,
            ],
        )
        if published == 2:
            logger.error("Redis had lost request %s; its verdict is published all the same", request.name)
        return bool(published)

    def settle(self, claim: Claim, receiver: str = "", written: str = "") -> None:
        self._run("settle", [claim.task, self._result_ttl_s, receiver, written, claim.retries])

    def postpone(
        self,
        claim: Claim,
        delay_s: float,
        why: str,
        *,
        attempted: bool = False,
        fair: bool = True,
        receiver: str = "",
    ) -> None:
        self._run("postpone", [claim.task, claim.run, int(attempted), int(fair), delay_s, why, receiver])

    def bury(self, claim: Claim, letter: DeadLetter, receiver: str = "") -> None:
        self._bury(claim.task, claim.run, letter, receiver)

    def _bury(self, task: str, run: int, letter: DeadLetter, receiver: str = "") -> None:
        self._run("bury", [task, run, letter.id, letter.model_dump_json(), self._dead_letters_bytes, receiver])

    def renew(self) -> None:
        """Renew this process' leases for another `lease_s` seconds, but none that began `longest_run_s` seconds ago."""
        now = time.monotonic()
        going = [claim for claim in self.held() if now - claim.since < self._longest_run_s]
        if going:
            self._run("renew", [self.lease_s, *(word for claim in going for word in (claim.task, claim.run))])

    def sweep(self) -> int:
        """Queue tasks that are overdue; returns how many were, `SWEPT_AT_ONCE` at most.

        Each is queued once, however many workers sweep. Entries that cannot be read are set aside, and dead letters
        that are too old are dropped.
        """
        overdue, unread = self._run("sweep", [SWEPT_AT_ONCE, self._dead_letters_ttl_s])
        if unread:
            named = self.connection.key(keys.UNREAD)
            logger.error("%d entries of the ledger cannot be read; %s names them", unread, named)
        return int(overdue)

    def wait(self, priority: int, timeout_s: int) -> bool:
        """Wait until an entry lies in the inbox of this priority. False if none came within `timeout_s` seconds."""
        return self._admission.wait(priority, timeout_s)

    def admit(self, priority: int) -> int:
        """Take in the next entries of the inbox of this priority, up to 100; returns how many."""
        return self._admission.admit(priority)

    def close(self) -> None:
        self.connection.close()


@cache
def whoami() -> str:
    """The name of this worker: HOST:PID."""
    return f"{socket.gethostname()}:{os.getpid()}"
