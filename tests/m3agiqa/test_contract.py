"""What crosses the wire, and the failures."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from pydantic import ValidationError

from m3agiqa import errors
from m3agiqa.contract import (
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_PROMPT_CHARS,
    VERSION,
    Asked,
    Aspect,
    AspectScore,
    Decision,
    Failure,
    PolicyRef,
    Rating,
    Redecided,
    ScoreRequest,
    ShadowDecision,
    Verdict,
)
from m3agiqa.errors import DataError, DeliveryUnavailable, M3AGIQAError, NewerVersion, RequestInvalid
from m3agiqa.policy import Policy
from m3agiqa.verdict import assemble
from tests.m3agiqa import reader_1_1

#: Times that UTC cannot express, and times that are mistakes.
NO_TIMES = (
    "9999-12-31T23:59:59-12:00",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "1999-12-31T23:59:59Z",
    "2000-01-01T00:00:00+00:01",
    "2999-12-31T23:59:59-00:01",
    "3000-01-01T00:00:00Z",
    0,
    253402300799,
    1e300,
)


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
        ("image_url", "https://x/a\u00a0b"),
        ("image_url", "https://x/a\x85b"),
        ("image_url", "s3://buc ket/a"),
        ("image_url", " s3://bucket/a"),
        ("image_url", "s3://bucket/a\\b"),
        ("image_url", "s3://bucket/a\nb"),
        ("image_url", "s3://bucket/a\u2028b"),
        ("image_url", "s3:///a"),
        ("image_url", "inline:00"),
        ("image_url", "inline:" + "a" * 63),
        ("image_url", "inline:" + "A" * 64),
        ("image_url", "inline:" + "a" * 64 + "\n"),
        ("image_url", "INLINE:" + "a" * 64),
        ("image_url", "data:image/png;base64,AAAA"),
        ("callback_url", "inline:" + "a" * 64),
        ("callback_url", "https://x/a b"),
        *((field, time) for field in ("submitted_at", "expires_at") for time in NO_TIMES),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_named_without_its_value(field: str, value: object) -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "a cat", field: value}
    with pytest.raises(RequestInvalid, match=rf"^{field}") as caught:
        ScoreRequest.parse(payload)
    if isinstance(value, str) and len(value) > 3 and value != "https://":
        assert value not in str(caught.value)


@pytest.mark.parametrize("time", ["2000-01-01T00:00:00Z", "2999-12-31T23:59:59Z", "2026-12-31T23:59:59-12:00"])
def test_a_time_of_our_age_is_kept_in_its_zone(time: str) -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "", "submitted_at": time, "expires_at": time}
    request = ScoreRequest.parse(payload)
    assert request.expires_at == request.submitted_at == datetime.fromisoformat(time)
    assert request.submitted_at.utcoffset() == datetime.fromisoformat(time).utcoffset()


@pytest.mark.parametrize("url", ["s3://bucket/a b.png", "s3://bucket/ a /b%20c?d#e", "S3://bucket/größe\u3000x"])
def test_a_key_may_hold_spaces(url: str) -> None:
    request = ScoreRequest.parse({"image_url": url, "prompt": "", "s3_uri": url})
    assert (request.image_url, request.s3_uri) == (url, url)


@pytest.mark.parametrize(
    "place",
    [
        "user@host",
        "user:password@host",
        "@host",
        "host:0",
        "host:00",
        "host:65536",
        "host:99999999999999999999",
        "host:port",
        "host:-1",
        "host:+80",
        "host:8\u0660",
        "[::1]:0",
        ":80",
        "",
        "?x",
        "#x",
    ],
)
@pytest.mark.parametrize("field", ["image_url", "callback_url"])
def test_a_url_that_nobody_could_ask_is_refused_as_it_is_submitted(field: str, place: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(RequestInvalid, match=rf"^{field}: Value error, must ") as caught:
            ScoreRequest.parse({"image_url": "https://x/y", "prompt": "", field: f"{scheme}://{place}/SECRET"})
        assert "SECRET" not in str(caught.value)
        assert "password" not in str(caught.value).replace("a user name or a password", "")


@pytest.mark.parametrize("url", ["http://host:/", "https://host:1/a@b:c", "http://host:65535", "http://[::1]:8080/"])
def test_a_url_may_name_any_port_there_is(url: str) -> None:
    assert ScoreRequest.parse({"image_url": url, "prompt": "", "callback_url": url}).callback_url == url


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://user:password@bucket/key",
        "s3://bucket?x/key",
        "s3://bu%20cket/key",
        "s3://bücket/key",
        "s3://bucket/..",
        "s3://bucket/../other/key",
        "s3://bucket/a/./b",
        "s3://bucket/a/..",
    ],
)
@pytest.mark.parametrize("field", ["image_url", "s3_uri"])
def test_a_bucket_or_a_key_that_leads_elsewhere_is_refused_as_it_is_submitted(field: str, url: str) -> None:
    with pytest.raises(RequestInvalid, match=rf"^{field}: Value error, must "):
        ScoreRequest.parse({"image_url": "https://x/y", "prompt": "", field: url})


@pytest.mark.parametrize(
    "url",
    [
        "s3://Bucket_1.a-b/a..b/.c/...",
        "s3://bucket",
        "s3://bucket/",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:images/key",
    ],
)
def test_dots_in_names_and_access_points_are_taken(url: str) -> None:
    assert ScoreRequest.parse({"image_url": url, "prompt": "", "s3_uri": url}).s3_uri == url


def nested(levels: int, inner: object = 1) -> dict[str, object]:
    """Objects and lists in turn, one in the other."""
    for level in range(levels - 1):
        inner = [inner] if level % 2 else {"k": inner, "beside": 1}
    return {"k": inner}


def test_metadata_may_be_nested_to_a_limit_and_its_verdict_can_be_read() -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "", "metadata": nested(MAX_METADATA_DEPTH)}
    request = ScoreRequest.parse(payload)
    verdict = assemble(request, Failure.from_error(RequestInvalid()), (), policy=Policy.load("default"), model=None)
    assert Verdict.model_validate_json(verdict.model_dump_json()).metadata == payload["metadata"]


@pytest.mark.parametrize("levels", [MAX_METADATA_DEPTH + 1, 199, 255, 900, 100_000])
def test_metadata_nested_deeper_is_refused(levels: int) -> None:
    with pytest.raises(RequestInvalid, match=r"^metadata: Value error, is nested deeper than 32 levels$"):
        ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": "", "metadata": nested(levels)})


def test_metadata_that_holds_itself_is_refused() -> None:
    metadata: dict[str, object] = {}
    metadata["k"] = metadata
    with pytest.raises(RequestInvalid, match=r"^metadata: "):
        ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": "", "metadata": metadata})


@pytest.mark.parametrize(
    "payload",
    [
        {"x" * 500_000: 1},
        {"\u202e\x1b[2J\n" * 1_000: 1},
        {str(number): 1 for number in range(10_000)},
        {"x" * 500 + str(number): 1 for number in range(100)},
        {"metadata": {"k" * 500_000: nested(30, inner=[object()])}},
        {"metadata": {"k" * 500_000: object()}},
    ],
)
def test_what_a_stranger_wrote_fills_no_message(payload: dict[str, object]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        ScoreRequest.parse(payload)
    assert len(str(caught.value)) < 4_000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", ["https://user:password@\uff03host/", "https://[password]/", "https://[password/"])
def test_a_malformed_url_is_not_quoted(url: str) -> None:
    with pytest.raises(RequestInvalid, match=r"^image_url: Value error, is malformed$"):
        ScoreRequest.parse({"image_url": url, "prompt": ""})


def test_a_long_name_does_not_hide_what_is_below_it() -> None:
    with pytest.raises(RequestInvalid, match=r"^metadata\.k{64}…\..*inner"):
        ScoreRequest.parse({"image_url": "https://x/a", "prompt": "", "metadata": {"k" * 500: {"inner": object()}}})


def test_the_first_errors_are_told_and_the_others_counted() -> None:
    wrong = dict.fromkeys("abcdefghij", 1)
    with pytest.raises(RequestInvalid) as caught:
        ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": "", **wrong})
    told = str(caught.value).split("; ")
    assert told[0] == "a: Extra inputs are not permitted"
    assert told[7:] == ["h: Extra inputs are not permitted", "and 2 more"]


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
    assert Rating.from_score(score) == word


@pytest.mark.parametrize("score", [-0.1, 5.1, float("nan"), float("inf")])
def test_a_score_is_a_number_from_0_to_5(score: float) -> None:
    with pytest.raises(ValidationError):
        AspectScore(score=score, rating=Rating.BAD, description="", slices=0, cut_tokens=0)


def test_every_failure_has_a_code_of_its_own_and_stands_in_the_tree() -> None:
    kinds = errors.tree()
    assert len({kind.code for kind in kinds}) == len(kinds)
    drawn = dict(re.findall(r"(?:── |^    )(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE))
    assert set(drawn) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        assert kind.retryable == drawn[kind.__name__].rstrip().endswith("(retryable)"), kind


@pytest.mark.parametrize("kind", errors.tree())
def test_a_failure_travels_as_a_value(kind: type[M3AGIQAError]) -> None:
    failure = Failure.from_error(kind("what happened"))
    assert failure == Failure(code=kind.code, message="what happened", retryable=kind.retryable)


def test_a_failure_can_be_written_whatever_the_name_of_a_file() -> None:
    failure = Failure.from_error(DataError("no file \udcd6"))
    assert Failure.model_validate_json(failure.model_dump_json()).message == r"no file \udcd6"


def test_what_was_not_foreseen_shows_only_its_type() -> None:
    failure = Failure.from_error(ValueError("secret"))
    assert failure == Failure(code="internal_error", message="unexpected ValueError", retryable=True)


def test_a_receiver_may_say_when_to_come_back() -> None:
    assert DeliveryUnavailable("503", retry_after_s=7).retry_after_s == 7
    assert DeliveryUnavailable("503").retry_after_s is None


def test_messages_are_frozen() -> None:
    request = ScoreRequest(image_url="https://x/y.png", prompt="")
    with pytest.raises(ValidationError):
        request.prompt = "other"  # type: ignore[misc]


def verdict() -> Verdict:
    request = ScoreRequest(image_url="https://x/y.png", prompt="", metadata={"k": 1})
    return assemble(request, Failure.from_error(RequestInvalid("why")), (), policy=Policy.load("default"), model=None)


def test_a_verdict_names_its_version() -> None:
    assert json.loads(verdict().model_dump_json())["version"] == VERSION


def test_a_verdict_is_read_whatever_a_later_version_added_to_it() -> None:
    written = json.loads(verdict().model_dump_json())
    later = {**written, "version": "1.9", "colour": "red"}
    for part in ("error", "policy"):
        later[part] = {**written[part], "colour": "red"}
    assert Verdict.model_validate(later) == Verdict.model_validate({**written, "version": "1.9"})
    # Metadata is the caller's own, unknown keys and all.
    later["metadata"] = {"k": 1, "colour": "red"}
    assert Verdict.model_validate(later).metadata == {"k": 1, "colour": "red"}


def test_a_reader_of_version_1_1_reads_a_verdict_of_ours() -> None:
    # given a verdict that says all that later versions added
    ours = verdict()
    ref = PolicyRef(name="p", version=1)
    written = ours.model_copy(
        update={
            "failures": {Aspect.QUALITY: ours.error},
            "neutral": {Aspect.QUALITY: 2.5},
            "request": Asked(image_url="https://x/y.png", prompt="a cat"),
            "shadow": ShadowDecision(policy=ref, decision=Decision.REJECT, reasons=("why",)),
            "redecided": Redecided(decision=Decision.REJECT, policy=ref, at=ours.scored_at),
            "batch_id": "monday",
            "tenant": "acme",
        }
    )
    # then the older reader reads what it knows, as it stands
    read = reader_1_1.Verdict.model_validate_json(written.model_dump_json())
    known = set(reader_1_1.Verdict.model_fields)
    assert read.model_dump(mode="json") == ours.model_dump(mode="json", include=known)
    later = {"type", "failures", "neutral", "request", "shadow", "redecided", "batch_id", "tenant"}
    assert set(Verdict.model_fields) - known == later


def test_a_verdict_of_version_1_1_is_read() -> None:
    ours = verdict()
    older = ours.model_dump(mode="json", include=set(reader_1_1.Verdict.model_fields)) | {"version": "1.1"}
    assert Verdict.model_validate(older) == ours.model_copy(update={"version": "1.1"})


MAJOR, MINOR = (int(part) for part in VERSION.split("."))


@pytest.mark.parametrize("version", [f"{MAJOR}.{MINOR + 1}", f"{MAJOR}.9999"])
def test_what_a_later_minor_version_added_to_a_request_is_left_out(version: str) -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "a cat", "version": version, "colour": "red"}
    request = ScoreRequest.parse(payload)
    assert (request.prompt, request.version) == ("a cat", version)
    assert "colour" not in request.model_dump()
    # Fields that both versions know must still be right.
    with pytest.raises(RequestInvalid, match=r"^prompt: "):
        ScoreRequest.parse({**payload, "prompt": 1})


@pytest.mark.parametrize("version", [None, VERSION, f"{MAJOR}.0", f"{MAJOR - 1}.9999"])
def test_a_field_that_no_version_up_to_ours_has_is_misspelt(version: str | None) -> None:
    payload = {"image_url": "https://x/y.png", "prompt": "a cat", "version": version, "colour": "red"}
    with pytest.raises(RequestInvalid, match=r"^colour: Extra inputs are not permitted$"):
        ScoreRequest.parse(payload)


@pytest.mark.parametrize("version", [f"{MAJOR + 1}.0", "9999.9999"])
@pytest.mark.parametrize(
    "payload", [{}, {"image_url": 1, "prompt": []}, {"image_url": "https://x/y.png", "prompt": ""}]
)
def test_another_major_version_is_for_other_readers(payload: dict[str, object], version: str) -> None:
    with pytest.raises(NewerVersion, match=f"version {version.partition('.')[0]} of the contract, and this worker"):
        ScoreRequest.parse({**payload, "version": version})


SPAN = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("version", [None, "1.0", "1.1", "1.2"])
def test_a_request_whose_image_lies_beside_it_says_that_it_is_of_a_later_version(version: str | None) -> None:
    request = ScoreRequest(image_url="inline:" + "a" * 64, prompt="", version=version)
    assert json.loads(request.to_json())["version"] == "1.2"
    assert ScoreRequest.parse(json.loads(request.to_json())).fingerprint == request.fingerprint


@pytest.mark.parametrize("version", [None, "1.0"])
def test_a_request_with_a_span_says_that_it_is_of_a_later_version_than_the_first(version: str | None) -> None:
    request = ScoreRequest(image_url="https://x/y.png", prompt="", request_id="r", version=version)
    traced = request.model_copy(update={"traceparent": SPAN})
    # the wire says so, as a reader of version 1.0 would refuse the field otherwise
    assert json.loads(traced.to_json())["version"] == "1.1"
    assert ScoreRequest.parse(json.loads(traced.to_json())).traceparent == SPAN
    # and so does one with a batch, or one that is to be tried anew, which is the same request
    for later in ({"batch_id": "monday"}, {"retry_failed": True}):
        asked = request.model_copy(update=later)
        assert json.loads(asked.to_json())["version"] == "1.2"
        assert asked.fingerprint == request.fingerprint
    # without a span nothing changes, and with any span it is the same request
    assert json.loads(request.to_json()).get("version") == version
    assert traced.fingerprint == request.fingerprint


@pytest.mark.parametrize("span", ["", SPAN[:-1], SPAN.upper(), SPAN + "\n", SPAN + "-x", 1])
def test_a_span_that_trace_context_would_not_write_costs_nobody_a_score(span: object) -> None:
    request = ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": "", "traceparent": span})
    assert request.traceparent is None


@pytest.mark.parametrize(
    "version", ["", "1", "1.", ".0", "1.0.0", "v1.0", "1.0\n", "-1.0", "12345.0", "\u0661.0", 1.0, 2, []]
)
def test_a_version_is_two_numbers(version: object) -> None:
    with pytest.raises(RequestInvalid, match=r"^version: "):
        ScoreRequest.parse({"image_url": "https://x/y.png", "prompt": "", "version": version})
