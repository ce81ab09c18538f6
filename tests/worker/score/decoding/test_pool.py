"""Real decoder processes: what they give back, and what ends them without costing anybody else."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m3agiqa.cutting import Cutter
from m3agiqa.errors import (
    Busy,
    DecoderLost,
    ImageTooCostly,
    ImageTooLarge,
    ImageUnreadable,
    OutOfMemory,
)
from m3agiqa.images import open_image
from m3agiqa.model.slicing import Slicing
from tests.support import PATIENCE_S, eventually, png
from worker.score.decoding import pool
from worker.score.decoding.budget import Budget
from worker.score.decoding.pool import Decoders
from worker.score.decoding.process import _shared_memory

CUTTER = Cutter(Slicing(), (9, 4))
Start = Callable[..., Decoders]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Decoders] = []

    def begin(cutter: Cutter | None = CUTTER, **options: Any) -> Decoders:
        options = {"cpu_s": 30.0, "waiting": 2, "max_pixels": 68_000_000, **options}
        started.append(Decoders(options.pop("count", 1), cutter=cutter, **options))
        return started[-1]

    yield begin
    for decoders in started:
        decoders.close()


def encoded(size: tuple[int, int], format_: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").resize(size).save(out, format_, **options)
    return out.getvalue()


LARGE = encoded((2400, 2000), "JPEG")


def decoder_of(decoders: Decoders) -> Any:
    return decoders._quick._all[0]


def test_a_image_comes_back_as_it_would_be_cut_here(start: Start) -> None:
    data = encoded((700, 500))

    found = start().quick(data)

    expected = CUTTER.cut(open_image(data))
    assert found is not None
    assert found.info == expected.info
    assert found.slices.keys() == expected.slices.keys()
    for grid, slices in expected.slices.items():
        assert found.slices[grid].sizes == slices.sizes
        assert all(
            np.array_equal(mine, its)
            for mine, its in zip(found.slices[grid].patches, slices.patches, strict=True)
        )  # fmt: skip
    assert found.rgb.tobytes() == expected.rgb.tobytes()


def test_a_scorer_that_looks_at_no_image_gets_none(start: Start) -> None:
    found = start(cutter=None).quick(png())
    assert found is not None
    assert (found.info.width, found.slices, found.size_bytes) == (16, {}, 0)


def test_a_large_image_takes_the_other_way_and_its_room(start: Start) -> None:
    decoders, budget = start(), Budget(10**9)
    assert decoders.quick(LARGE) is None
    with budget.hold() as hold:
        found = decoders.patient(LARGE, hold)
        assert (found.info.width, found.info.height) == (2400, 2000)
        assert budget.taken_bytes > 10 * 2400 * 2000


def test_no_room_for_a_large_image_puts_it_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_ROOM_S", 0.05)
    decoders, budget = start(), Budget(10**6)
    with budget.hold() as other, budget.hold() as hold:
        other.resize(10)
        with pytest.raises(Busy):
            decoders.patient(LARGE, hold)
    assert decoders.quick(png()) is not None


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"no image", ImageUnreadable),
        (encoded((300, 300))[:-2000], ImageUnreadable),
        (encoded((300, 2)), ImageTooLarge),
        (b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\1A\0" * 200_000, ImageTooCostly),
    ],
    ids=["text", "truncated", "long", "parts"],
)
def test_what_is_wrong_with_a_image_is_said_and_the_process_goes_on(
    data: bytes, failure: type[Exception], start: Start
) -> None:
    decoders = start()
    decoders.quick(png())
    process = decoder_of(decoders)._process

    def decode() -> None:
        # Walking over many parts may take longer than a slow machine gives a small image.
        if decoders.quick(data) is None:
            with Budget(10**9).hold() as hold:
                decoders.patient(data, hold)

    with pytest.raises(failure):
        decode()
    assert decoders.quick(png()) is not None
    assert decoder_of(decoders)._process is process


def test_pixels_beyond_the_limit_are_refused(start: Start) -> None:
    with pytest.raises(ImageTooLarge, match="16x16 is more than 255 pixels"):
        start(max_pixels=255).quick(png())


def test_a_image_that_takes_too_long_costs_its_process_and_itself_alone(start: Start) -> None:
    decoders, budget = start(cpu_s=0.05), Budget(10**9)
    slow = encoded((8000, 8000), "WEBP", lossless=True, quality=0, method=0)
    with budget.hold() as hold, pytest.raises(ImageTooCostly, match=r"more than 0\.05 s of processor time"):
        decoders.patient(slow, hold)
    assert decoders.quick(encoded((40, 40))) is not None


def test_a_process_that_is_killed_says_nothing_about_its_image(start: Start) -> None:
    decoders = start()
    decoders.quick(png())
    for sent, failure in ((signal.SIGKILL, OutOfMemory), (signal.SIGSEGV, DecoderLost)):
        process = decoder_of(decoders)._process
        process.send_signal(sent)
        process.wait(PATIENCE_S)
        with pytest.raises(failure) as lost:
            decoders.quick(png())
        assert lost.value.retryable
        assert decoders.quick(png()) is not None


def test_a_process_that_hangs_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.score.decoding.process._HANGS_S", 0.5)
    decoders = start()
    decoders.quick(png())
    process = decoder_of(decoders)._process
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(DecoderLost, match="did not answer"):
        decoders.quick(png())
    assert process.poll() == -signal.SIGKILL
    monkeypatch.undo()
    assert decoders.quick(png()) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux alone")
def test_a_decoder_that_grows_beyond_its_image_is_stopped_and_the_image_not_blamed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A decoder that wants more memory than an image of its size may take says that the image is broken.
    monkeypatch.setattr("worker.score.decoding.process._MODULE", "tests.worker.score.decoding.greedy")
    decoders = start()
    with Budget(10**9).hold() as hold, pytest.raises(OutOfMemory):
        decoders.patient(png(), hold)


def test_many_threads_share_few_processes(start: Start) -> None:
    decoders = start(count=2)
    images = [encoded((60 + number, 50)) for number in range(40)]
    widths: list[tuple[int, int]] = []

    def run(number: int) -> None:
        found = decoders.quick(images[number])
        assert found is not None
        widths.append((number, found.info.width))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(widths) == [(number, 60 + number) for number in range(40)]


def test_only_so_many_wait_for_those_that_take_long(start: Start) -> None:
    decoders, budget = start(waiting=1), Budget(10**9)
    assert decoders._waiting.acquire(blocking=False)
    with budget.hold() as hold, pytest.raises(Busy, match="come first"):
        decoders.patient(LARGE, hold)
    decoders._waiting.release()
    with budget.hold() as hold:
        assert decoders.patient(LARGE, hold)


def test_while_one_takes_long_others_are_decoded(start: Start) -> None:
    decoders, budget = start(), Budget(10**9)
    with budget.hold() as hold:
        decoders.patient(LARGE, hold)
    # The only patient process stands still in the middle of an image.
    patient: Any = decoders._patient._all[0]
    patient._process.send_signal(signal.SIGSTOP)

    def wait() -> None:
        with budget.hold() as hold:
            decoders.patient(LARGE, hold)

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(3):
        assert decoders.quick(png()) is not None
    patient._process.send_signal(signal.SIGCONT)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_decoder_sees_no_secret(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGIQA_WEBHOOK_SECRETS", "whsec_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    decoders = start()
    decoders.quick(png())
    seen = Path(f"/proc/{decoder_of(decoders)._process.pid}/environ").read_bytes()
    assert b"secret" not in seen
    assert b"PYTHONPATH" in seen


def test_a_decoder_ends_with_its_worker(start: Start) -> None:
    decoders = start()
    decoders.quick(png())
    decoder = decoder_of(decoders)
    decoder._connection.close()
    assert decoder._process.wait(PATIENCE_S) == 0
    decoder._connection = Connection(socket.socket().detach())


@pytest.mark.parametrize(
    "answer",
    [
        b"no JSON",
        json.dumps({"info": None, "more": 1}).encode(),
        json.dumps({"large": -5}).encode(),
        json.dumps({"slices": [[3, 3, [[32, 32]]]], "info": "INFO"}).encode(),
        json.dumps({"slices": [[0, 0, [[700, 700]]]], "info": "INFO"}).encode(),
        json.dumps({"slices": [[0, 0, [[32, 32]]]], "info": "INFO"}).encode(),
        json.dumps({"raw_size": [60_000, 60_000], "info": "INFO"}).encode(),
        json.dumps({"raw_size": [60, 60], "info": "INFO"}).encode(),
        b"[" * 70_000,
    ],
    ids=["text", "unknown", "negative", "too few", "too large", "nothing there", "raw too large", "no raw", "long"],
)
def test_a_decoder_that_was_taken_over_is_not_believed(answer: bytes, start: Start) -> None:
    decoders = start()
    found = decoders.quick(png())
    assert found is not None
    decoder = decoder_of(decoders)
    decoder.end()
    ours, theirs = socket.socketpair()
    decoder._connection, decoder._memory = Connection(ours.detach()), _shared_memory()
    decoder._process = Ended()
    other = Connection(theirs.detach())
    answered = answer.replace(b'"INFO"', found.info.model_dump_json().encode())

    def reply() -> None:
        other.recv_bytes()
        with suppress(BrokenPipeError):  # too long an answer is not read to its end
            other.send_bytes(answered)

    thread = threading.Thread(target=reply)
    thread.start()
    with pytest.raises(DecoderLost, match="answered what it may not"):
        decoders.quick(png())
    thread.join(PATIENCE_S)
    other.close()
    assert decoders.quick(png()) is not None


class Ended:
    """Stands for a process."""

    pid = os.getpid()

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def poll(self) -> int:
        return 0


class Seen:
    """Counts how often it was entered, and who is inside."""

    entered = inside = 0

    def __enter__(self) -> None:
        self.entered += 1
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


def test_batches_may_wait_for_small_images_alone(start: Start) -> None:
    expected = Seen()
    decoders = start(expected=expected)
    assert decoders.quick(encoded((500, 500), "JPEG")) is not None
    assert (expected.entered, expected.inside) == (1, 0)
    # one that is not small is expected while its header is read, and large files not even then
    assert decoders.quick(encoded((1200, 1000), "JPEG")) is not None
    assert (expected.entered, expected.inside) == (2, 0)
    assert decoders.quick(encoded((64, 64)) + bytes(8_000_000)) is not None
    assert (expected.entered, expected.inside) == (2, 0)


def test_those_that_are_not_small_leave_a_process_to_those_that_are(start: Start) -> None:
    # given two processes, one of which stands still with an image that is not small
    decoders = start(count=2)
    lane = decoders._quick
    with lane.decoder(1.0):
        # when another one like it waits, and a small one comes later
        taken: list[str] = []

        def take(name: str, expected_s: float) -> None:
            with lane.decoder(expected_s):
                taken.append(name)

        larger = threading.Thread(target=take, args=("larger", 1.0))
        larger.start()
        eventually(lambda: len(lane._waiting) == 1, "the larger one waits")
        take("small", 0.0)
        assert taken == ["small"]
    larger.join(PATIENCE_S)
    assert taken == ["small", "larger"]
