from __future__ import annotations

from redis import Redis

from m3agiqa.contract import ScoreRequest
from m3agiqa.queue.ledger import Ledger
from tests.worker.conftest import come_due, owed


def test_a_run_that_outlived_its_lease_ends_without_the_lease_of_the_next_one(ledger: Ledger, redis: Redis) -> None:
    # given a thread that was slower than its lease, and another of the same worker that has its task since
    task = owed(ledger, redis, ScoreRequest(image_url="https://host/a.png", prompt="", request_id="r"))
    slow = ledger.claim(task)
    slow.__enter__()
    come_due(ledger, redis, 2000)
    with ledger.claim(task) as newer:
        # when the slow one ends
        slow.__exit__(None, None, None)
        # then the other is kept, and renewed
        assert ledger.held() == [newer]
        come_due(ledger, redis, 900)
        ledger.renew()
        assert come_due(ledger, redis, 200) == 0
