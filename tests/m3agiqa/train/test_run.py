"""What a run was started with, and who may go on from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m3agiqa.errors import CheckpointError, OutputError
from m3agiqa.files import image_digest
from m3agiqa.train.run import Run, digest

STARTED_WITH = {"data": "abc", "rate": 0.1, "epochs": 3}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def begun(run: Run) -> None:
    with run.alone():
        assert run.resume(STARTED_WITH) is None
        run.begin(STARTED_WITH)
        run.keep({"history": [1], "weights": torch.ones(3)})


def test_a_run_goes_on_from_its_own_state_alone(run: Run) -> None:
    begun(run)

    state = run.resume(STARTED_WITH | {"epochs": 5}, changeable=("epochs",))

    assert state is not None
    assert state["history"] == [1]
    assert torch.equal(state["weights"], torch.ones(3))
    with pytest.raises(OutputError, match="holds a run with another data, rate; name another folder"):
        run.resume({"data": "other", "rate": 0.2, "epochs": 3})
    with pytest.raises(OutputError, match="another epochs"):
        run.resume(STARTED_WITH | {"epochs": 5})


def test_a_start_that_came_to_nothing_refuses_nobody(run: Run) -> None:
    with run.alone():
        run.begin(STARTED_WITH)

    assert run.resume({"data": "other"}) is None


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"data: [", b"\xff\xfe", b"seed: 2020-13-45", None])
def test_without_its_settings_a_run_is_nobodys(run: Run, content: bytes | None) -> None:
    begun(run)
    settings = run.path / "settings.yaml"
    if content is None:
        settings.unlink()
    else:
        settings.write_bytes(content)

    with pytest.raises(OutputError, match=r"settings.yaml does not say of what|settings.yaml, line 1: not UTF-8"):
        run.resume(STARTED_WITH)


def test_a_damaged_state_says_what_to_delete(run: Run) -> None:
    begun(run)
    last = run.path / "last.pt"
    whole = last.read_bytes()
    for content in (b"", whole[:50], whole[: len(whole) // 2], whole[:-1], b"text"):
        last.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"last.pt is damaged or does not fit: delete it"):
            run.resume(STARTED_WITH)
    torch.save({"something": "else"}, last)
    with pytest.raises(CheckpointError, match="delete it"):
        run.resume(STARTED_WITH)


def test_two_runs_do_not_share_a_folder(run: Run) -> None:
    with run.alone(), pytest.raises(OutputError, match="another run writes to"), run.alone():
        pass
    with run.alone():
        pass


def test_images_are_known_by_content(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (image_digest(tmp_path / name) for name in "abc")
    assert one == same != other
    assert image_digest(tmp_path / "none") is None
    assert digest("ab", "c") != digest("a", "bc")


def test_metrics_may_gain_a_number_while_a_run_is_continued(tmp_path: Path) -> None:
    # Given a run whose first epoch was told by an earlier version
    run = Run(tmp_path)

    # When a later one tells more of the second
    run.keep_metrics([{"epoch": 0, "srcc": 0.5}, {"epoch": 1, "srcc": 0.6, "krcc": 0.4}])

    # Then both stand in the table
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,srcc,krcc", "0,0.5,", "1,0.6,0.4"]
