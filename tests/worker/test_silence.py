"""Connections to Redis that die without a word, as behind a proxy that forgets them or on a host that freezes."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from m3agiqa.queue.address import Address
from producers import Client, State
from tests.support import PATIENCE_S, Web, Worker, eventually, start_worker
from worker.ops.health import is_ready
from worker.ops.watchdog import CUT_OFF, HUNG

#: Seconds; the least a worker takes.
SILENCE_S = 2


class BlackHole:
    """Hands on what comes to it to a Redis, until it swallows what comes on the connections that it has."""

    def __init__(self, host: str, port: int) -> None:
        self._behind = (host, port)
        self._swallowing: list[threading.Event] = []
        self._open: list[socket.socket] = []
        #: Whether new connections are dead as well.
        self.for_good = False
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, *, for_good: bool = False) -> None:
        self.for_good = for_good
        for swallowing in self._swallowing:
            swallowing.set()

    def close(self) -> None:
        for each in (self._server, *self._open):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(self._behind)
                swallowing = threading.Event()
                if self.for_good:
                    swallowing.set()
                self._swallowing.append(swallowing)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, swallowing), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, swallowing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if not swallowing.is_set():
                    sink.sendall(data)
            if not swallowing.is_set():
                sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def hole(redis_url: str) -> Iterator[BlackHole]:
    host, _, port = Address.parse(redis_url).endpoint.rpartition(":")
    hole = BlackHole(host, int(port))
    yield hole
    hole.close()


@pytest.fixture
def behind(hole: BlackHole, redis_url: str, web: Web, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a worker that reaches Redis through the hole alone."""
    started: list[Worker] = []
    password = Address.parse(redis_url).password

    def start(queue: str, **settings: object) -> Worker:
        defaults: dict[str, object] = {
            "redis_url": Address.parse(f"redis://127.0.0.1:{hole.port}/0").as_user("", password).url,
            "redis_silence_s": SILENCE_S,
            "model": "fake",
            "max_batch": 4,
            "fetch_allow_hosts": web.endpoint,
            "deliver_allow_hosts": web.endpoint,
            "webhook_secrets": "whsec_" + "c2VjcmV0" * 5,
        }
        folder = tmp_path / f"behind{len(started)}"
        worker = start_worker(folder, queue, concurrency=8, **{**defaults, **settings})
        started.append(worker)
        worker.wait_ready(queue)
        return worker

    yield start
    for worker in started:
        worker.kill()


def test_everything_is_settled_over_new_connections(
    hole: BlackHole, behind: Callable[..., Worker], client: Client, web: Web
) -> None:
    # given both workers
    workers = [behind("score", lease_s=SILENCE_S), behind("deliver", lease_s=SILENCE_S)]
    # when every connection of theirs is dead, and they are not told
    hole.swallow()
    ids = client.submit_many(
        {"image_url": web.url(f"{number}.png"), "prompt": "", "callback_url": web.url("hook")} for number in range(8)
    )
    # then they find out, and do all there is over new ones
    eventually(lambda: {client.state(name) for name in ids} == {State.SETTLED}, "everything is settled")
    # and stop as ever
    assert [worker.terminate() for worker in workers] == [0, 0]


def test_a_worker_that_stops_does_not_wait_for_a_redis_that_is_silent(
    hole: BlackHole, behind: Callable[..., Worker], client: Client, web: Web
) -> None:
    # given a worker that fetches an image
    web.gate.clear()
    worker = behind("score", fetch_timeout_s=PATIENCE_S, fetch_first_byte_s=PATIENCE_S, slow_share=1)
    request_id = client.submit(image_url=web.url("a.png"), prompt="")
    eventually(lambda: client.state(request_id) == State.FETCHING, "the image is being fetched")
    # when Redis says nothing any more, and the worker is asked to stop
    hole.swallow(for_good=True)
    # then it ends, although it can give nothing back
    assert worker.terminate() == CUT_OFF
    assert "Redis does not answer" in worker.log
    # and another does what it had, once its lease is over
    assert client.state(request_id) == State.FETCHING


def test_a_worker_whose_main_loop_hangs_is_not_ready_and_ends(behind: Callable[..., Worker], tmp_path: Path) -> None:
    # given a worker whose main loop hangs as soon as a file is there
    file = tmp_path / "hang"
    prelude = (
        "import pathlib, threading\n"
        "import worker.ops.health, worker.ops.loops\n"
        "worker.ops.health.STALE_S, worker.ops.health.INTERVAL_S = 1, 0.1\n"
        "worker.ops.loops.STUCK_S = 3\n"
        "from worker.celery_patches import transport\n"
        "read = transport.NamesOnlyChannel._brpop_read\n"
        "def hang(self, **options):\n"
        f"    while pathlib.Path({str(file)!r}).exists(): threading.Event().wait(0.1)\n"
        "    return read(self, **options)\n"
        "transport.NamesOnlyChannel._brpop_read = hang\n"
    )
    worker = behind("score", prelude=prelude)
    pid = worker.process.pid
    # when it hangs
    file.touch()
    # then it is not ready, and ends, so that whatever supervises it starts another
    eventually(lambda: not is_ready(worker.health_dir, "score", pid), "not ready")
    assert worker.process.wait(PATIENCE_S) == HUNG
    assert "hangs or died" in worker.log


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT), (None, signal.SIGQUIT)]
)
def test_a_worker_that_is_interrupted_again_ends_at_once_and_its_task_is_given_back(
    first: signal.Signals | None,
    second: signal.Signals,
    client: Client,
    web: Web,
    worker_process: Callable[..., Worker],
) -> None:
    # given a worker that fetches an image, which takes long
    web.gate.clear()
    worker = worker_process("score", fetch_timeout_s=PATIENCE_S, fetch_first_byte_s=PATIENCE_S, slow_share=1)
    request_id = client.submit(image_url=web.url("a.png"), prompt="")
    eventually(lambda: client.state(request_id) == State.FETCHING, "the image is being fetched")
    # when somebody asks it to end, and then presses Ctrl+C, or does not wait from the beginning
    if first is not None:
        worker.process.send_signal(first)
        eventually(lambda: "Warm shutdown" in worker.log, "it finishes what it has")
        assert worker.process.poll() is None
    worker.process.send_signal(second)
    # then it ends, with the image still to come
    assert worker.process.wait(PATIENCE_S) == 130
    web.gate.set()
    # and another takes the task, without waiting for a lease to end
    assert "interrupted again" in client.history(request_id)[-1]
    worker_process("score")
    assert client.result(request_id, timeout=PATIENCE_S).status == "scored"
