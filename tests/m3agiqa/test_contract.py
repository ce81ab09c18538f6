"""What crosses the wire, and the failures."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from m3agiqa import errors
from m3agiqa.contract import (
    MAX_METADATA_BYTES,
    MAX_PROMPT_CHARS,
    Aspect,
    AspectScore,
    Failure,
    Rating,
    ScoreRequest,
)
from m3agiqa.errors import DeliveryUnavailable, M3AGIQAError, RequestInvalid


def test_a_request_has_sensible_defaults() -> None:
    one, two = (ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": ""}) for _ in range(2))
    assert (one.aspects, one.policy, one.priority, one.metadata) == (None, None, 3, {})
    assert one.request_id != two.request_id
    assert one.submitted_at.tzinfo is not None


def test_a_request_survives_the_wire() -> None:
    request = ScoreRequest(
        image_url="s3://bucket/a.png",
        prompt="größer 🐈",
        callback_url="http://h:8000/cb?token=1",
        s3_uri="s3://out/prefix",
        aspects=(Aspect.AUTHENTICITY, Aspect.QUALITY, Aspect.AUTHENTICITY),
        policy="strict-2",
        priority=0,
        metadata={"nested": {"list": [1, None, "x"]}},
    )
    assert request.aspects == (Aspect.AUTHENTICITY, Aspect.QUALITY)
    assert ScoreRequest.parse(json.loads(request.model_dump_json())) == request


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_url", "ftp://x/y"),
        ("image_url", "file:///etc/passwd"),
        ("image_url", "https://"),
        ("image_url", "x.png"),
        ("image_url", ""),
        ("image_url", "https://x/a b"),
        ("image_url", "https://x/\n"),
        ("image_url", "https://x\\@y/"),
        ("image_url", "https://x/" + "a" * 5_000),
        ("callback_url", "s3://bucket/x"),
        ("s3_uri", "https://bucket/x"),
        ("prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("prompt", None),
        ("aspects", []),
        ("aspects", ["beauty"]),
        ("policy", "../default"),
        ("policy", "/etc/x.yaml"),
        ("priority", 1),
        ("request_id", ""),
        ("request_id", "../x"),
        ("request_id", "a/b"),
        ("request_id", ".hidden"),
        ("request_id", "a\n"),
        ("request_id", "x" * 129),
        ("metadata", {"k": "x" * MAX_METADATA_BYTES}),
        ("metadata", {"k": float("nan")}),
        ("submitted_at", "2026-01-01T00:00:00"),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_named_without_its_value(field: str, value: object) -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "a cat", field: value}
    with pytest.raises(RequestInvalid, match=rf"^{field}") as caught:
        ScoreRequest.parse(payload)
    if isinstance(value, str) and len(value) > 3 and value != "https://":
        assert value not in str(caught.value)


@pytest.mark.parametrize("payload", [None, [], "x", 3, {}])
def test_what_is_no_request_at_all(payload: object) -> None:
    with pytest.raises(RequestInvalid):
        ScoreRequest.parse(payload)


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (0, "bad"),
        (0.999, "bad"),
        (1, "poor"),
        (2, "fair"),
        (2.999, "fair"),
        (3, "good"),
        (4, "excellent"),
        (5, "excellent"),
    ],
)
def test_rating_words(score: float, word: str) -> None:
    assert Rating.of(score) == word


@pytest.mark.parametrize("score", [-0.1, 5.1, float("nan"), float("inf")])
def test_a_score_is_a_number_from_0_to_5(score: float) -> None:
    with pytest.raises(ValidationError):
        AspectScore(score=score, rating=Rating.BAD, description="", slices=0, cut_tokens=0)


def failures(of: type[M3AGIQAError] = M3AGIQAError) -> list[type[M3AGIQAError]]:
    return [of, *(below for kind in of.__subclasses__() for below in failures(kind))]


def test_every_failure_has_a_code_of_its_own_and_stands_in_the_tree() -> None:
    kinds = [kind for kind in failures() if kind.__module__ == errors.__name__]
    assert len({kind.code for kind in kinds}) == len(kinds)
    drawn = dict(re.findall(r"(?:── |^    )(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE))
    assert set(drawn) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        assert kind.retryable == drawn[kind.__name__].rstrip().endswith("(retryable)"), kind


@pytest.mark.parametrize("kind", [kind for kind in failures() if kind.__module__ == errors.__name__])
def test_a_failure_travels_as_a_value(kind: type[M3AGIQAError]) -> None:
    failure = Failure.of(kind("what happened"))
    assert failure == Failure(code=kind.code, message="what happened", retryable=kind.retryable)


def test_what_was_not_foreseen_shows_only_its_type() -> None:
    failure = Failure.of(ValueError("secret"))
    assert failure == Failure(code="internal_error", message="unexpected ValueError", retryable=True)


def test_a_receiver_may_say_when_to_come_back() -> None:
    assert DeliveryUnavailable("503", retry_after_s=7).retry_after_s == 7
    assert DeliveryUnavailable("503").retry_after_s is None


def test_messages_are_frozen() -> None:
    request = ScoreRequest(image_url="https://x/y.png", prompt="")
    with pytest.raises(ValidationError):
        request.prompt = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Failure.model_validate({"code": "x", "message": "", "retryable": False, "more": 1})
