"""A worker that decides by the prompt, for tests of those who act on decisions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from m3agiqa.contract import Decision, Failure, ScoreRequest
from m3agiqa.queue import keys
from m3agiqa.queue.ledger import Ledger
from tests.support_verdicts import verdict

FAILURE = Failure(code="scoring_timeout", message="no score in time", retryable=True)
UNFIT = Failure(code="prompt_too_long", message="1638 tokens of the head's 512", retryable=False)
#: What is said of a request whose prompt begins so. Any other has no verdict.
SAID: dict[str, dict[str, Any]] = {
    "accept": {"decision": Decision.ACCEPT},
    "review": {"decision": Decision.REVIEW, "reasons": ("quality 2.00 < review_below 2.50",)},
    "reject": {"decision": Decision.REJECT, "reasons": ("quality 0.50 < reject_below 1.50",)},
    "fail": {"decision": Decision.REVIEW, "status": "failed", "error": FAILURE},
    "unfit": {"decision": Decision.REVIEW, "status": "failed", "error": UNFIT},
}


@dataclass
class Judge:
    """What it was asked, in order."""

    asked: list[ScoreRequest] = field(default_factory=list)

    def images(self) -> dict[str, str]:
        """What a request names as its image, by its prompt."""
        return {request.prompt: request.image_url for request in self.asked}

    def work(self, ledger: Ledger, over: threading.Event) -> None:
        while not over.wait(0.01):
            for priority in keys.PRIORITIES:
                ledger.admit(priority)
                while name := ledger.connection.call("rpop", keys.wakeups(keys.SCORE_QUEUE, priority)):
                    self.judge(ledger, str(name))

    def judge(self, ledger: Ledger, name: str) -> None:
        with ledger.claim(name) as claim:
            self.asked.append(claim.request)
            said = SAID.get(claim.request.prompt.partition(" ")[0])
            if said is not None:
                claim.publish(verdict(name, **said))


@contextmanager
def judging(redis_url: str) -> Iterator[Judge]:
    judge, over = Judge(), threading.Event()
    with closing(Ledger(redis_url)) as ledger:
        thread = threading.Thread(target=judge.work, args=(ledger, over))
        thread.start()
        try:
            yield judge
        finally:
            over.set()
            thread.join()
