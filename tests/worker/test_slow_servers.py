"""Threads of one worker, slow servers by the hundred, and a neighbour that wants a thread now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

import pytest

from m3agiqa.errors import Busy, M3AGIQAError
from producers import Client
from tests.support import PATIENCE_S, Web, Worker, eventually
from tests.worker.conftest import HttpServer, resolver
from worker.delivery.sender import Delivery, Sender
from worker.score.fetch import Fetcher
from worker.settings import Settings
from worker.shares import Shares

Start = Callable[..., Worker]
THREADS = 24
SERVERS = 40


class Pool:
    """Threads that do tasks in their order; a task that is put off comes back at the end of the queue."""

    def __init__(self, do: Callable[[str], object]) -> None:
        self._do = do
        self._tasks: SimpleQueue[str | None] = SimpleQueue()
        self.ended: list[str] = []
        self.put_off = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def add(self, *tasks: str) -> None:
        for task in tasks:
            self._tasks.put(task)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._do(task)
            except Busy as busy:
                self.put_off += 1
                timer = threading.Timer(busy.delay_s, self.add, [task])
                timer.daemon = True
                timer.start()
                continue
            except M3AGIQAError:
                """Its server was slow for too long."""
            self.ended.append(task)

    def stop(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


@contextmanager
def pool(do: Callable[[str], object], slow: HttpServer) -> Iterator[Pool]:
    threads = Pool(do)
    try:
        yield threads
    finally:
        slow.over.set()
        threads.stop()


def drip(request: Any) -> None:
    request.reply(200, content_length="1000000")
    while not request.server.over.wait(0.2):
        request.wfile.write(b"x")


def hang(request: Any) -> None:
    request.server.over.wait(PATIENCE_S)


@pytest.mark.parametrize("servers", [1, SERVERS])
def test_image_servers_that_drip_keep_no_neighbour_waiting(servers: int, serve: Any) -> None:
    # given many URLs of slow servers in front of everything else, each good for a thread as long as the test lasts
    slow, quick = serve(drip, "0.0.0.0"), serve(lambda request: request.reply(200, b"image"))
    places = [f"127.0.0.{2 + number}:{slow.server_port}" for number in range(servers)]
    settings = Settings(fetch_allow_hosts=(quick.netloc, *places), fetch_timeout_s=PATIENCE_S)
    fetcher = Fetcher(settings, Shares(THREADS))
    with pool(fetcher.fetch, slow) as threads:
        threads.add(*(f"http://{places[number % servers]}/{number}" for number in range(100)))
        # when a neighbour whom nobody knows wants its images
        theirs = [f"{quick.url}/{number}" for number in range(100)]
        threads.add(*theirs)
        # then it gets all of them, while the slow ones hang
        eventually(lambda: len(threads.ended) >= len(theirs), "the neighbour's images")
        assert sorted(threads.ended) == sorted(theirs)
        assert threads.put_off >= 100 - THREADS


def test_receivers_that_hang_at_one_address_keep_no_neighbour_waiting(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given many callbacks for many names of one slow address in front of everything else
    slow, quick = serve(hang), serve(lambda request: request.reply(204))
    names = [f"receiver{number}.example" for number in range(SERVERS)]
    resolver(monkeypatch, {name: ["127.0.0.1"] for name in names})
    places = [f"{name}:{slow.server_port}" for name in names]
    settings = Settings(
        deliver_allow_hosts=(quick.netloc, *places),
        deliver_timeout_s=PATIENCE_S,
        webhook_secrets=("whsec_" + "c2VjcmV0" * 5,),
    )
    sender = Sender(settings, Shares(THREADS, per_server=settings.deliver_max_per_host, longest_delay_s=300))

    def deliver(url: str) -> None:
        now = datetime.now(UTC)
        sender.send(Delivery(request="r", kind="callback", url=url, body="{}", submitted_at=now))

    with pool(deliver, slow) as threads:
        threads.add(*(f"http://{places[number % SERVERS]}/{number}" for number in range(200)))
        # when a neighbour whom nobody knows has verdicts to come
        theirs = [f"{quick.url}/{number}" for number in range(100)]
        threads.add(*theirs)
        # then they come, while the slow ones hang
        eventually(lambda: len(threads.ended) >= len(theirs), "the neighbour's callbacks")
        assert sorted(threads.ended) == sorted(theirs)
        # and of the slow address few were asked: those that went on, and others in their place from time to time
        assert len(slow.received) < 100


def test_images_of_a_worker_overtake_those_that_drip(
    client: Client, web: Web, serve: Any, worker_process: Start
) -> None:
    # given a worker, and more URLs of a slow server than it has threads
    slow = serve(drip)
    worker_process(
        "score", concurrency=8, fetch_timeout_s=PATIENCE_S, fetch_allow_hosts=f"{slow.netloc},{web.endpoint}"
    )
    dripping = [client.submit(image_url=f"{slow.url}/{number}", prompt="") for number in range(30)]
    # when others are submitted
    others = [client.submit(image_url=web.url(f"{number}.png"), prompt="") for number in range(10)]
    # then they have their verdicts, and the slow ones lost nothing but time
    for request_id in others:
        verdict = client.result(request_id, timeout=PATIENCE_S)
        assert (verdict.status, verdict.attempt) == ("scored", 1)
    history = [line for request_id in dripping for line in client.history(request_id)]
    assert any("again in" in line for line in history)
    assert not any("verdict published" in line for line in history)
