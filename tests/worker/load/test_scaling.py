from __future__ import annotations

import json

import pytest

from tests.support import eventually
from worker.demo.processes import DemoFailed
from worker.load import rig, scaling
from worker.load.measure import main
from worker.load.rig import Arrived
from worker.load.scaling import Scaling
from worker.load.throughput import Load


def test_throughput_is_held_to_that_of_as_many_single_workers() -> None:
    measured = Scaling(gpus=4, pictures=800, seconds=20.0, batch=28.0, one_per_s=12.5)
    assert measured.pictures_per_s == pytest.approx(40)
    assert measured.share == pytest.approx(0.8)


def test_as_many_workers_have_as_many_times_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    # given workers that take a second for any load, in batches of 2
    loads: list[tuple[int, int | None]] = []

    def by_queue(load: Load, progress: object, *, gpus: int | None) -> tuple[list[Arrived], float]:
        loads.append((load.pictures, gpus))
        return [Arrived(1.0, "scored", 2, {})] * load.pictures, 1.0

    monkeypatch.setattr(scaling, "by_queue", by_queue)
    # when three GPUs are measured
    measured = scaling.run(Load("fake", "cpu", 10, 4, side=16), 3)
    # then
    assert loads == [(10, 1), (30, 3)]
    assert measured == Scaling(gpus=3, pictures=30, seconds=1.0, batch=2.0, one_per_s=10.0)
    assert measured.share == pytest.approx(1)


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1"]), ("", ["0", "1"]), ("5,2,7", ["5", "2"])])
def test_each_worker_sees_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    scoring = [own for _, queue, own in rig._workers(2) if queue == "score"]
    assert scoring == [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    assert [(queue, own) for _, queue, own in rig._workers(None)] == [("score", {}), ("deliver", {})]


def test_fewer_gpus_than_workers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DemoFailed, match="shows 1 of 2 GPUs"):
        rig._workers(2)


def test_gpus_without_a_model_are_wrong_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--gpus", "2"])


@pytest.mark.slow
def test_several_workers_share_a_redis() -> None:
    # given two workers that score, here with the fake scorer on the CPU in place of a GPU each
    with rig.rig([b""], score_threads=4, gpus=2, model="fake", max_batch=2) as platform:
        # then both come to be there, and one that delivers
        def workers() -> tuple[int, int]:
            overview = platform.client.overview()
            return overview.workers_of("score"), overview.workers_of("deliver")

        eventually(lambda: workers() == (2, 1), "two workers that score and one that delivers")


@pytest.mark.slow
def test_workers_are_measured_against_one(capsys: pytest.CaptureFixture[str]) -> None:
    # given the fake scorer, which runs on the CPU: what is shown is how it is measured, not how far it scales
    command = ["--model", "fake:0.05", "--device", "cpu", "--gpus", "2", "--pictures", "9", "--max-batch", "4"]
    assert main([*command, "--side", "32", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["gpus"], measured["pictures"], measured["max_batch"]) == (2, 18, 4)
    assert 1 <= measured["batch"] <= 4
    assert measured["share"] == pytest.approx(measured["pictures_per_s"] / (2 * measured["one_per_s"]))
