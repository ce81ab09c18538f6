from __future__ import annotations

import json

import pytest

from worker.demo.processes import DemoFailed
from worker.load.measure import main
from worker.load.rig import Arrived
from worker.load.throughput import summary


def arrived(batch: int | None, *, status: str = "scored", **timings_ms: float) -> Arrived:
    return Arrived(1.0, status, batch, {"queue": 0.0, "wait": 0.0} | timings_ms)


def test_what_came_is_summed_up() -> None:
    # given two batches of three, one of two and one alone
    verdicts = [arrived(batch) for batch in (3, 3, 3, 3, 3, 3, 2, 2, 1)]
    # when they took 4.5 s, and the model alone does four a second
    measured = summary(verdicts, 4.5, 4.0)
    # then nine images came in four batches
    assert measured.batch == pytest.approx(9 / 4)
    assert measured.pictures_per_s == pytest.approx(2.0)
    assert measured.share == pytest.approx(0.5)


def test_waits_are_told_by_their_median_and_the_longest_twentieth() -> None:
    measured = summary([arrived(1, queue=1000 * number, wait=number) for number in range(101)], 1.0, 1.0)
    assert (measured.queue_p50_s, measured.queue_p95_s) == pytest.approx((50, 95))
    assert (measured.wait_p50_ms, measured.wait_p95_ms) == pytest.approx((50, 95))


def test_the_models_time_is_that_of_the_largest_batches_alone() -> None:
    # given batches of two that took the model 400 ms, and one image alone
    verdicts = [*[arrived(2, encode=100, rate=300, score=9000, prepare=50)] * 4, arrived(1, encode=50, rate=50)]
    assert summary(verdicts, 1.0, 1.0).batch_s == pytest.approx(0.4)


@pytest.mark.parametrize("bad", [arrived(2, status="failed"), arrived(None)])
def test_a_image_that_was_not_scored_spoils_the_measurement(bad: Arrived) -> None:
    with pytest.raises(DemoFailed, match="1 of 3 images were not scored"):
        summary([arrived(2), arrived(2), bad], 1.0, 1.0)


@pytest.mark.slow
def test_a_model_is_measured_by_way_of_the_queue_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", "fake:0.05", "--pictures", "13", "--max-batch", "4", "--side", "32", "--json"]
    assert main(command) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["model"], measured["pictures"], measured["max_batch"]) == ("fake:0.05", 13, 4)
    assert 1 <= measured["batch"] <= 4
    assert measured["share"] == pytest.approx(measured["pictures_per_s"] / measured["engine_per_s"])
    assert measured["queue_p95_s"] > 0
    assert measured["wait_p95_ms"] > 0


@pytest.mark.slow
def test_a_worker_that_does_not_start_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nonsense", "--pictures", "2", "--side", "16"]) == 1
    assert "no models file" in capsys.readouterr().err
