from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis

from m3agiqa.client import Client, Gate
from m3agiqa.errors import ConfigError, QueueUnavailable, ResultTimeout, ScoringError, UsageError
from m3agiqa.queue import keys
from tests.judge import Judge
from tests.pages import blocks
from tests.support import ROOT, Worker, png

FOUR = ("accept a cat", "review a cat", "reject a cat", "fail a cat")


def inline(data: bytes) -> str:
    return f"inline:{hashlib.sha256(data).hexdigest()}"


def test_images_are_sorted_by_their_own_verdicts(
    client: Client, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    # when four images are judged that a worker says four different things of
    images = [png(shade) for shade in range(4)]
    judged = Gate(client).judge(images, FOUR)
    # then each was asked for with its own prompt, and has its own answer
    assert judge.images() == dict(zip(FOUR, map(inline, images), strict=True))
    assert [(one.image, one.prompt) for one in judged] == list(zip(images, FOUR, strict=True))
    assert [one.kept for one in judged] == [True, False, False, True]
    assert [one.why for one in judged] == [
        "",
        "quality 2.00 < review_below 2.50",
        "quality 0.50 < reject_below 1.50",
        "scoring_timeout: no score in time",
    ]
    assert all(one.verdict is not None for one in judged)
    # and the one without a score is told
    assert [record.getMessage() for record in caplog.records] == [
        "an image has no score and is kept: scoring_timeout: no score in time"
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"review": "keep"}, [True, True, False, True]),
        ({"otherwise": "drop"}, [True, False, False, False]),
        ({"review": "keep", "otherwise": "drop"}, [True, True, False, False]),
    ],
)
@pytest.mark.usefixtures("judge")
def test_the_caller_chooses_what_becomes_of_the_others(client: Client, options: Any, kept: list[bool]) -> None:
    judged = Gate(client, **options).judge([png()] * 4, FOUR)
    assert [one.kept for one in judged] == kept


@pytest.mark.usefixtures("judge")
def test_a_caller_may_want_an_error(client: Client) -> None:
    with pytest.raises(ScoringError, match="scoring_timeout"):
        Gate(client, otherwise="raise").judge([png()] * 4, FOUR)
    with pytest.raises(ResultTimeout):
        Gate(client, otherwise="raise", timeout=0.1).judge([png()], "silence")


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize("otherwise", ["keep", "drop", "raise"])
def test_what_failed_for_good_is_what_its_verdict_says(client: Client, otherwise: Any) -> None:
    # whoever writes a prompt that cannot be scored gets no image past the gate
    [one] = Gate(client, otherwise=otherwise).judge([png()], "unfit")
    assert (one.kept, one.why) == (False, "prompt_too_long: 1638 tokens of the head's 512")
    [one] = Gate(client, otherwise=otherwise, review="keep").judge([png()], "unfit")
    assert one.kept


def test_an_image_without_a_verdict_costs_its_neighbours_nothing(
    client: Client, judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given images that cannot be read or sent among one that can
    broken = Image.new("F", (8, 8))
    images: list[Any] = [tmp_path / "missing.png", broken, object(), png(), png(1)]
    prompts = ["accept", "accept", "accept", "reject", "accept " + "x" * 9000]
    # then these alone have no verdict, and are kept, but for the one whose prompt is to blame
    judged = Gate(client).judge(images, prompts)
    assert [one.kept for one in judged] == [True, True, True, False, False]
    assert [one.verdict is None for one in judged] == [True, True, True, False, True]
    assert [request.prompt for request in judge.asked] == ["reject"]
    assert len(caplog.records) == 3
    assert Gate(client, review="keep").judge([png(1)], "x" * 9000)[0].kept


def test_defects_of_ours_cost_no_image(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "submit", lambda **_: 1 / 0)
    [one] = Gate(client).judge([png()], "a cat")
    assert one.kept
    assert one.why == "unexpected ZeroDivisionError"
    assert "an image cannot be judged" in caplog.text


def test_a_redis_that_is_away_is_asked_once(unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    with Client(f"redis://127.0.0.1:{unused_port}") as away:
        submit = away.submit

        def counted(**fields: Any) -> str:
            nonlocal tried
            tried += 1
            return submit(**fields)

        monkeypatch.setattr(away, "submit", counted)
        # when a batch is judged, then all of it is kept, after one attempt
        assert [one.kept for one in Gate(away).judge([png()] * 3, "a cat")] == [True] * 3
        assert tried == 1
        # and the caller may choose otherwise
        assert [one.kept for one in Gate(away, otherwise="drop").judge([png()], "a cat")] == [False]
        with pytest.raises(QueueUnavailable):
            Gate(away, otherwise="raise").judge([png()], "a cat")


def test_there_may_be_several_images_of_each_prompt(client: Client, judge: Judge) -> None:
    judged = Gate(client).judge([png(shade) for shade in range(4)], ["accept", "reject"])
    assert [one.kept for one in judged] == [True, True, False, False]
    assert {request.image_url: request.prompt for request in judge.asked} == {
        inline(png(0)): "accept",
        inline(png(1)): "accept",
        inline(png(2)): "reject",
        inline(png(3)): "reject",
    }


def test_what_does_not_pair_up_is_not_guessed(client: Client, redis: Redis) -> None:
    judged = Gate(client).judge([png(shade) for shade in range(3)], ["accept", "reject"])
    assert [one.kept for one in judged] == [True] * 3
    assert {one.why for one in judged} == {
        "prompt: there are not as many prompts as images, nor one for as many images each"
    }
    assert redis.llen(keys.inbox(3)) == 0
    assert Gate(client).judge([], []) == []
    with pytest.raises(UsageError):
        Gate(client, otherwise="raise").judge([png()], [])


def test_the_environment_names_the_redis(redis_url: str, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from m3agiqa.client import gate

    monkeypatch.setenv("M3AGIQA_REDIS_URL", redis_url)
    gate._of_the_environment.cache_clear()
    [one] = Gate(policy="observe", priority=0).judge([png()], "accept")
    assert one.verdict is not None
    assert [(request.policy, request.priority) for request in judge.asked] == [("observe", 0)]
    gate._of_the_environment().close()
    gate._of_the_environment.cache_clear()
    # and if it names none, that costs no image
    monkeypatch.setenv("M3AGIQA_REDIS_URL", "nonsense")
    [one] = Gate().judge([png()], "accept")
    assert one.kept
    assert "M3AGIQA_REDIS_URL" in one.why


@pytest.mark.parametrize("options", [{"otherwise": "Keep"}, {"review": "raise"}])
def test_a_choice_that_there_is_not_is_refused(client: Client, options: Any) -> None:
    with pytest.raises(ConfigError, match="must be one of keep, drop"):
        Gate(client, **options)


def test_the_log_holds_no_prompt(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Gate(client, timeout=0).judge([png()], "a secret wish")
    assert "secret" not in caplog.text


def test_the_pages_program_says_what_to_do(
    redis_url: str,
    worker_process: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker_process("score")
    monkeypatch.chdir(ROOT)
    [program] = [text for text in blocks("python") if "Gate(client" in text]
    exec(compile(program.replace("redis://localhost:6379/0", redis_url), "a page", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.split()[0] in ("keep", "drop")
