"""Real workers, and what receivers see of their attempts."""

from __future__ import annotations

import time
from collections.abc import Callable

from standardwebhooks import Webhook

from producers import Client, State
from tests.support import Web, Worker, eventually
from tests.worker.conftest import Answer, Handler, HttpServer

Start = Callable[..., Worker]
SECRET = "whsec_" + "c2VjcmV0" * 5


def test_a_receiver_that_asks_for_time_gets_it(
    client: Client, web: Web, serve: Callable[[Answer], HttpServer], worker_process: Start
) -> None:
    # given a receiver that asks for three seconds, though the next attempt would come sooner
    came: list[float] = []

    def busy(handler: Handler) -> None:
        came.append(time.monotonic())
        if len(came) == 1:
            handler.reply(429, retry_after="3")
        else:
            handler.reply(204)

    receiver = serve(busy)
    worker_process("score")
    worker_process("deliver", deliver_retry_delays_s="0.1", deliver_allow_hosts=receiver.netloc)
    # when a verdict is delivered there
    request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=receiver.url)
    # then it comes again, and not before
    eventually(lambda: client.state(request_id) == State.SETTLED, "the delivery")
    assert len(came) == 2
    assert came[1] - came[0] >= 3


def test_a_delivery_whose_worker_dies_before_writing_it_down_comes_again_the_same(
    client: Client, web: Web, serve: Callable[[Answer], HttpServer], worker_process: Start
) -> None:
    # given a worker that dies as soon as the receiver has its verdict
    receiver = serve(lambda handler: handler.reply(204))
    settings = {"visibility_timeout_s": 2, "deliver_allow_hosts": receiver.netloc}
    prelude = "import os\nfrom m3agiqa.queue.ledger import Ledger\nLedger.settle = lambda *_: os._exit(9)\n"
    worker_process("score")
    doomed = worker_process("deliver", prelude=prelude, **settings)
    request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=receiver.url)
    doomed.process.wait(60)
    # when another takes its place
    worker_process("deliver", **settings)
    eventually(lambda: client.state(request_id) == State.SETTLED, "the delivery")
    # then the receiver got the same bytes with the same id twice, signed both times
    first, again = receiver.received
    assert first.body == again.body
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == request_id
    for callback in (first, again):
        assert Webhook(SECRET).verify(callback.body, callback.headers)


def test_two_workers_that_have_the_same_request_deliver_one_verdict(
    client: Client, web: Web, worker_process: Start
) -> None:
    # given a worker that is slower with an image than its lease lasts, so that another takes it as well
    web.gate.clear()
    for _ in range(2):
        worker_process("score", visibility_timeout_s=1, fetch_timeout_s=60, score_cache_ttl_s=0)
    request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
    eventually(lambda: sum("score begun" in line for line in client.history(request_id)) >= 2, "two have it")
    web.gate.set()
    # then there is one verdict, and one delivery of it
    worker_process("deliver")
    eventually(lambda: client.state(request_id) == State.SETTLED, "the delivery")
    assert web.count("hook") == 1
    assert sum("verdict published" in line for line in client.history(request_id)) == 1
