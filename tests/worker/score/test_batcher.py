from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import pytest

from m3agiqa.contract import Aspect, AspectScore, Failure, Priority
from m3agiqa.errors import DeviceLost, ScoringOutOfMemory, ScoringTimeout
from m3agiqa.images import open_image
from m3agiqa.jobs import Job, Scores
from m3agiqa.scorer import FakeScorer
from tests.support import PATIENCE_S, eventually, png
from worker.score.batcher import STEP_S, Batcher, _Scored
from worker.score.turns import Waiting

IMAGE = open_image(png())


class Watched(FakeScorer):
    """A fake that writes down its batches, waits at a gate, and fails where the prompt tells it to."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, job: Job) -> Job:
        return job

    def score(self, jobs: Sequence[Job]) -> list[Scores | Failure]:
        self.batches.append([job.prompt for job in jobs])
        assert self.gate.wait(PATIENCE_S)
        prompts = {job.prompt for job in jobs}
        if "out of memory" in prompts:
            raise ScoringOutOfMemory("no room")
        if "lost" in prompts:
            raise DeviceLost("cuda:0 failed")
        if "defect" in prompts:
            raise ZeroDivisionError("a secret wish")
        if "too few" in prompts:
            return []
        refused = Failure(code="score_not_finite", message="NaN", retryable=False)
        return [refused if job.prompt == "bad" else self._score_one(job) for job in jobs]


@pytest.fixture
def scorer() -> Watched:
    return Watched()


Start = Callable[..., Batcher]


@pytest.fixture
def start(scorer: Watched) -> Iterator[Start]:
    started: list[Batcher] = []

    def start(max_batch: int = 4, max_wait_s: float = 0.0) -> Batcher:
        started.append(Batcher(scorer, max_batch=max_batch, max_wait_s=max_wait_s))
        return started[-1]

    yield start
    scorer.gate.set()
    for batcher in started:
        batcher.stop(PATIENCE_S)
        assert not any(thread.is_alive() for thread in batcher._threads)


def submit(batcher: Batcher, *prompts: str) -> list[Future[Scores | Failure]]:
    return [batcher.submit(Job(IMAGE, prompt)) for prompt in prompts]


def results(futures: Sequence[Future[Scores | Failure]]) -> list[Scores | Failure]:
    return [future.result(PATIENCE_S) for future in futures]


def test_a_full_batch_does_not_wait(scorer: Watched, start: Start) -> None:
    results(submit(start(max_batch=3, max_wait_s=10 * PATIENCE_S), "a", "b", "c"))
    assert scorer.batches == [["a", "b", "c"]]


def test_a_batch_that_does_not_fill_goes_after_its_wait(scorer: Watched, start: Start) -> None:
    results(submit(start(max_wait_s=0.05), "a"))
    assert scorer.batches == [["a"]]


def test_what_gathers_during_a_batch_is_the_next_one_without_a_wait(scorer: Watched, start: Start) -> None:
    # given a batcher that is busy
    scorer.gate.clear()
    batcher = start(max_batch=4, max_wait_s=0.0)
    first = submit(batcher, "a")
    eventually(lambda: scorer.batches, "a batch")
    # when more come than fit into one batch
    more = submit(batcher, *"bcdef")
    scorer.gate.set()
    # then they are taken in order, as many as fit
    results([*first, *more])
    assert scorer.batches == [["a"], list("bcde"), ["f"]]


def test_results_go_to_those_who_asked(start: Start) -> None:
    prompts = [str(number) for number in range(50)]
    scored = results(submit(start(), *prompts))
    expected = FakeScorer().score([Job(IMAGE, prompt) for prompt in prompts])
    assert [aspects(one) for one in scored] == [aspects(one) for one in expected]


def aspects(outcome: Scores | Failure) -> Mapping[Aspect, AspectScore]:
    assert isinstance(outcome, Scores)
    return outcome.aspects


def test_the_most_urgent_go_first_and_among_equals_who_came_first(scorer: Watched, start: Start) -> None:
    # given a batcher that is busy, and more of every priority than fit into a batch
    scorer.gate.clear()
    batcher = start(max_batch=2)
    first = submit(batcher, "a")
    eventually(lambda: scorer.batches, "a batch")
    waiting: list[tuple[str, Priority]] = [("9", 9), ("3", 3), ("6", 6), ("0", 0), ("3 too", 3), ("0 too", 0)]
    futures = [batcher.submit(Job(IMAGE, prompt), priority) for prompt, priority in waiting]
    # when it goes on
    scorer.gate.set()
    # then they go by priority
    results([*first, *futures])
    assert scorer.batches == [["a"], ["0", "0 too"], ["3", "3 too"], ["6", "9"]]


def test_a_tenant_that_came_first_leaves_places_in_the_next_batch(scorer: Watched, start: Start) -> None:
    # given a batch under way, many images of one tenant and of none, and then a few of another tenant
    batcher = start(max_batch=8)
    scorer.gate.clear()
    first = submit(batcher, "first")
    eventually(lambda: scorer.batches, "a batch")
    many = [batcher.submit(Job(IMAGE, f"a{number}"), 3, "acme") for number in range(24)]
    none = [batcher.submit(Job(IMAGE, f"n{number}")) for number in range(24)]
    few = [batcher.submit(Job(IMAGE, f"u{number}"), 3, "umbra") for number in range(2)]
    # when it is over
    scorer.gate.set()
    results([*first, *many, *none, *few])
    # then all three are in the next batch, and each tenant's images keep their order
    assert {prompt[0] for prompt in scorer.batches[1]} == {"a", "n", "u"}
    told = [prompt for batch in scorer.batches[1:] for prompt in batch]
    for whose in "anu":
        numbers = [int(prompt[1:]) for prompt in told if prompt[0] == whose]
        assert numbers == sorted(numbers)


def test_the_least_urgent_is_not_overtaken_for_ever(
    scorer: Watched, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a busy batcher, and one that has waited for as long as its priority makes it give way
    scorer.gate.clear()
    batcher = start(max_batch=1)
    first = submit(batcher, "a")
    eventually(lambda: scorer.batches, "a batch")
    patient = batcher.submit(Job(IMAGE, "patient"), 9)
    late = time.monotonic() + 9 * STEP_S
    monkeypatch.setattr(time, "monotonic", lambda: late)
    # when urgent ones come after that
    urgent = [batcher.submit(Job(IMAGE, prompt), 0) for prompt in "bc"]
    monkeypatch.undo()
    scorer.gate.set()
    # then it goes before them
    results([*first, patient, *urgent])
    assert scorer.batches == [["a"], ["patient"], ["b"], ["c"]]


def test_results_go_one_by_one_while_another_batch_is_scored_and_at_once_afterwards(
    scorer: Watched, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two batches, and all the time in the world between two results
    gates = {"a": threading.Event(), "c": threading.Event()}

    def score(jobs: Sequence[Job]) -> list[Scores | Failure]:
        assert gates[jobs[0].prompt].wait(PATIENCE_S)
        return FakeScorer().score(jobs)

    monkeypatch.setattr(scorer, "score", score)
    monkeypatch.setattr("worker.score.batcher.PAUSE_S", 1e9)
    monkeypatch.setattr("worker.score.batcher.SPREAD", 1e9)
    batcher = start(max_batch=2)
    first, second = batcher.submit_together([Job(IMAGE, "a"), Job(IMAGE, "b")])
    others = submit(batcher, "c", "d")
    # when the first of them is over
    gates["a"].set()
    # then its first result is there, its second not yet
    results([first])
    with pytest.raises(FutureTimeout):
        second.result(0.2)
    # when no batch is scored any more
    gates["c"].set()
    # then all others are there
    results([second, *others])


def test_each_result_has_its_own_moment_within_the_time_that_the_batch_took(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.score.batcher.PAUSE_S", 1e9)
    began = time.monotonic()
    dues: list[float] = []

    def scored(due: float, *rest: Any) -> _Scored:
        dues.append(due)
        return _Scored(due, *rest)

    monkeypatch.setattr("worker.score.batcher._Scored", scored)

    results(submit(start(max_batch=3, max_wait_s=10 * PATIENCE_S), "a", "b", "c"))

    first, second, third = dues
    assert first < second < third
    assert third - first < time.monotonic() - began


def test_a_batcher_without_the_thread_that_hands_out_results_is_not_alive(start: Start) -> None:
    batcher = start()
    assert batcher.alive(PATIENCE_S)
    batcher._scored.put(None)
    eventually(lambda: not batcher.alive(PATIENCE_S), "its end")


def test_scores_tell_their_batch_and_their_wait_for_it(start: Start) -> None:
    full = results(submit(start(max_batch=3, max_wait_s=10 * PATIENCE_S), "a", "b", "c"))
    [alone] = results(submit(start(), "d"))
    for outcome, batch in (*((each, 3) for each in full), (alone, 1)):
        assert isinstance(outcome, Scores)
        assert outcome.batch == batch
        assert outcome.timings_ms["wait"] >= 0
        assert outcome.timings_ms["prepare"] >= 0


def test_jobs_submitted_together_are_prepared_before_the_first_is_taken(
    scorer: Watched, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a preparation that ends only after another batch was scored
    batcher = start(max_batch=2, max_wait_s=0.0)

    def prepare(job: Job) -> Job:
        if job.prompt == "b":
            results(submit(batcher, "meanwhile"))
        return job

    monkeypatch.setattr(scorer, "prepare", prepare)
    # when two are submitted together
    results(batcher.submit_together([Job(IMAGE, "a"), Job(IMAGE, "b")]))
    # then none of them was in it
    assert scorer.batches[0] == ["meanwhile"]


def test_who_prepares_is_expected(scorer: Watched, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = start()
    seen: list[bool] = []

    def prepare(job: Job) -> Job:
        seen.append(bool(batcher.expected))
        return job

    monkeypatch.setattr(scorer, "prepare", prepare)

    submit(batcher, "one")

    assert seen == [True]
    assert not batcher.expected


def test_a_batch_waits_for_a_image_that_is_being_opened(scorer: Watched, start: Start) -> None:
    # given a batcher that waits for nobody, and a thread that opens an image
    batcher = start(max_batch=3, max_wait_s=0.0)
    with batcher.expected:
        # when another image is there
        first = submit(batcher, "a")
        # then it does not go without
        time.sleep(0.1)
        assert scorer.batches == []
        second = submit(batcher, "b")
    results([*first, *second])
    assert scorer.batches == [["a", "b"]]


def test_a_batch_does_not_wait_for_ever_for_one_that_hangs(scorer: Watched, start: Start) -> None:
    batcher = start(max_wait_s=0.0)
    with batcher.expected:
        results(submit(batcher, "a"))
        assert scorer.batches == [["a"]]


def test_one_failing_job_does_not_fail_its_neighbours(scorer: Watched, start: Start) -> None:
    scored = results(submit(start(max_wait_s=10 * PATIENCE_S), "a", "bad", "b", "c"))
    assert scorer.batches == [["a", "bad", "b", "c"]]
    assert [type(one) for one in scored] == [Scores, Failure, Scores, Scores]


@pytest.mark.parametrize(
    ("prompt", "code", "retryable"),
    [
        ("out of memory", "scoring_out_of_memory", True),
        ("defect", "internal_error", True),
        ("too few", "internal_error", True),
    ],
)
def test_a_scorer_that_raises_fails_its_batch_and_no_other(
    prompt: str, code: str, retryable: bool, start: Start
) -> None:
    batcher = start(max_batch=2, max_wait_s=10 * PATIENCE_S)
    failed, neighbour, *others = results(submit(batcher, prompt, "neighbour", "a", "b"))
    assert isinstance(failed, Failure)
    assert (failed.code, failed.retryable) == (code, retryable)
    assert "secret" not in failed.message
    assert neighbour == failed
    assert [type(one) for one in others] == [Scores, Scores]


def test_a_job_that_waits_too_long_is_given_up_and_never_scored(scorer: Watched, start: Start) -> None:
    # given a batcher that hangs
    scorer.gate.clear()
    batcher = start()
    [first] = submit(batcher, "a")
    eventually(lambda: scorer.batches, "a batch")
    # when a job has a deadline
    with pytest.raises(ScoringTimeout, match=r"0\.05 s"):
        batcher.score(Job(IMAGE, "late"), timeout_s=0.05)
    # then it is not scored once the batcher goes on
    scorer.gate.set()
    results([first, *submit(batcher, "b")])
    assert scorer.batches == [["a"], ["b"]]


def test_stop_finishes_what_was_submitted(scorer: Watched, start: Start) -> None:
    scorer.gate.clear()
    batcher = start(max_batch=2)
    futures = submit(batcher, *"abcde")
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    scorer.gate.set()
    stopping.join(PATIENCE_S)
    assert all(future.done() for future in futures)
    assert not batcher.alive(PATIENCE_S)


def test_a_batch_that_never_ends_is_noticed(scorer: Watched, start: Start) -> None:
    scorer.gate.clear()
    batcher = start()
    assert batcher.alive(longest_batch_s=0)
    submit(batcher, "a")
    eventually(lambda: scorer.batches, "a batch")
    assert batcher.alive(longest_batch_s=PATIENCE_S)
    assert not batcher.alive(longest_batch_s=0)


def test_images_nobody_waits_for_take_no_places(scorer: Watched, start: Start) -> None:
    # given a batch at work, and four that wait behind it, two of them given up
    scorer.gate.clear()
    batcher = start(max_batch=2)
    [first] = submit(batcher, "first")
    eventually(lambda: scorer.batches == [["first"]], "the first is scored")
    waiting = submit(batcher, "gone", "a", "gone too", "b")
    assert waiting[0].cancel()
    assert waiting[2].cancel()
    # when
    scorer.gate.set()
    results([first, waiting[1], waiting[3]])
    # then the other two made one batch
    assert scorer.batches == [["first"], ["a", "b"]]


def test_the_wait_counts_from_when_a_image_came(scorer: Watched, start: Start) -> None:
    # given an image that came long ago, and a batch that would still wait long for others
    waited = 10 * PATIENCE_S
    late = Waiting(0.0, 0, Job(IMAGE, "late"), Future(), since=time.monotonic() - waited)
    # when
    start(max_batch=2, max_wait_s=waited)._queue.put(late)
    # then it waits for nobody
    results([late.future])
    assert scorer.batches == [["late"]]


def test_a_lost_device_ends_the_worker_and_fails_for_now(scorer: Watched, start: Start) -> None:
    batcher = start()
    assert batcher.alive(PATIENCE_S)

    [failure] = results(submit(batcher, "lost"))

    assert isinstance(failure, Failure)
    assert (failure.code, failure.retryable) == ("device_lost", True)
    assert not batcher.alive(PATIENCE_S)
