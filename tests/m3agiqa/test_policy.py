"""Scores to decisions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from m3agiqa import config
from m3agiqa.contract import Aspect, AspectScore, Decision, Failure, Rating
from m3agiqa.errors import ConfigError
from m3agiqa.policy import Policies, Policy, Thresholds

QUALITY, CORRESPONDENCE, AUTHENTICITY = Aspect
ACCEPT, REVIEW, REJECT = Decision

FAILURE = Failure(code="fetch_refused", message="404", retryable=False)
POLICY = Policy(
    name="strict",
    version=3,
    aspects={
        QUALITY: Thresholds(reject_below=1.5, review_below=2.5),
        CORRESPONDENCE: Thresholds(review_below=2),
    },
)


def scored(**scores: float) -> dict[Aspect, AspectScore]:
    return {
        Aspect(name): AspectScore(score=score, rating=Rating.from_score(score), description="", slices=0, cut_tokens=0)
        for name, score in scores.items()
    }


@pytest.mark.parametrize(
    ("scores", "decision", "reasons"),
    [
        ({"quality": 4.0}, ACCEPT, ()),
        ({"quality": 2.5}, ACCEPT, ()),
        ({"quality": 2.4999}, REVIEW, ("quality 2.4999 < review_below 2.50",)),
        ({"quality": 1.5}, REVIEW, ("quality 1.50 < review_below 2.50",)),
        ({"quality": 1.499}, REJECT, ("quality 1.499 < reject_below 1.50",)),
        ({"quality": 0.0}, REJECT, ("quality 0.00 < reject_below 1.50",)),
        ({"correspondence": 0.0}, REVIEW, ("correspondence 0.00 < review_below 2.00",)),
        (
            {"quality": 1.0, "correspondence": 1.0},
            REJECT,
            ("quality 1.00 < reject_below 1.50", "correspondence 1.00 < review_below 2.00"),
        ),
        ({"quality": 4.0, "authenticity": 0.0}, ACCEPT, ()),
    ],
)
def test_the_worst_aspect_decides_and_every_reason_is_named(
    scores: dict[str, float], decision: Decision, reasons: tuple[str, ...]
) -> None:
    assert POLICY.decide(scored(**scores), [Aspect(name) for name in scores]) == (decision, reasons)


def test_a_missing_aspect_is_reviewed() -> None:
    assert POLICY.decide(scored(quality=4), [QUALITY, CORRESPONDENCE]) == (REVIEW, ("correspondence has no score",))
    assert POLICY.decide(scored(quality=4), [QUALITY, AUTHENTICITY]) == (ACCEPT, ())
    lenient = POLICY.model_copy(update={"on_missing": ACCEPT})
    assert lenient.decide(scored(quality=4), [QUALITY, CORRESPONDENCE])[0] == ACCEPT
    assert lenient.decide(scored(correspondence=1), [QUALITY, CORRESPONDENCE])[0] == REVIEW


def test_a_low_score_rejects_although_another_aspect_is_missing() -> None:
    decision, reasons = POLICY.decide(scored(quality=1), [QUALITY, CORRESPONDENCE])
    assert decision == REJECT
    assert reasons == ("quality 1.00 < reject_below 1.50", "correspondence has no score")


def test_a_policy_that_judges_nothing_asked_for_is_reviewed() -> None:
    decision, reasons = POLICY.decide(scored(authenticity=5), [AUTHENTICITY])
    assert decision == REVIEW
    assert reasons == ("policy strict judges none of the aspects asked for",)


def test_a_failure_is_reviewed_once() -> None:
    assert POLICY.decide({}, [QUALITY, CORRESPONDENCE], FAILURE) == (REVIEW, ("not scored: fetch_refused",))
    lenient = POLICY.model_copy(update={"on_failure": ACCEPT})
    assert lenient.decide({}, [QUALITY], FAILURE) == (ACCEPT, ("not scored: fetch_refused",))


@pytest.mark.parametrize("field", ["on_failure", "on_missing"])
def test_a_failure_cannot_be_configured_to_reject(field: str) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"name": "x", "version": 1, "aspects": {"quality": {}}, field: "reject"})


@pytest.mark.parametrize(
    "thresholds",
    [
        {"reject_below": 3, "review_below": 2},
        {"reject_below": 1},
        {"review_below": 5.1},
        {"reject_below": -0.1},
        {"review_below": float("nan")},
        {"accept_above": 1},
    ],
)
def test_wrong_thresholds(thresholds: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Thresholds.model_validate(thresholds)


def test_thresholds_may_lie_at_the_ends_of_the_scale() -> None:
    assert Thresholds(reject_below=5, review_below=5).reject_below == 5
    assert (Thresholds().reject_below, Thresholds().review_below) == (0, 0)


def test_a_policy_in_force_cannot_be_changed() -> None:
    for part, name in ((POLICY, "version"), (POLICY.aspects[QUALITY], "reject_below")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 4)


def test_a_policy_that_judges_no_aspect_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Policy(name="empty", version=1, aspects={})


@given(st.dictionaries(st.sampled_from(Aspect), st.floats(0, 5)), st.lists(st.sampled_from(Aspect)), st.booleans())
def test_only_a_score_below_its_threshold_rejects(
    scores: dict[Aspect, float], wanted: list[Aspect], failed: bool
) -> None:
    decision, reasons = POLICY.decide(scored(**scores), wanted, FAILURE if failed else None)
    assert (decision == REJECT) == (QUALITY in wanted and scores.get(QUALITY, 5) < 1.5)
    assert decision == ACCEPT or reasons


@pytest.mark.parametrize("name", config.names("policies"))
def test_every_policy_that_ships_loads(name: str) -> None:
    policy = Policy.load(name)
    assert policy.name == name
    assert set(policy.aspects) == set(Aspect)
    assert (policy.ref.name, policy.ref.version) == (name, policy.version)


def test_observe_accepts_everything() -> None:
    policy = Policy.load("observe")
    worst = scored(quality=0, correspondence=0, authenticity=0)
    assert policy.decide(worst, list(Aspect)) == (ACCEPT, ())
    assert policy.decide({}, list(Aspect), FAILURE)[0] == ACCEPT


def test_a_wrong_field_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("name: p\nversion: 0\naspects: {quality: {}}\n")
    with pytest.raises(ConfigError, match=r"p\.yaml: version: .*greater than or equal to 1"):
        Policy.load(str(file))


def test_a_copy_that_still_has_the_others_name_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "gallery.yaml"
    copy.write_bytes((config.SHIPPED_DIR / "policies" / "default.yaml").read_bytes())
    with pytest.raises(ConfigError, match=r"gallery\.yaml: name: must be gallery, .* not default"):
        Policy.load(str(copy))


def test_the_digest_follows_what_a_policy_decides_by(tmp_path: Path) -> None:
    shipped = Policy.load("default")
    again = Policy.model_validate_json(shipped.model_dump_json())
    assert again.ref == shipped.ref
    assert re.fullmatch("[0-9a-f]{12}", shipped.ref.digest or "")
    stricter = shipped.model_copy(update={"on_failure": ACCEPT})
    assert stricter.ref.digest != shipped.ref.digest


def test_a_policy_from_before_a_field_existed_keeps_its_digest() -> None:
    # The verdict that docs/integration.md shows names it as well.
    assert Policy.load("default").ref.digest == "ec190e6ccd5e"
    sampled = Policy.load("default").model_copy(update={"sample_review": 0.01})
    assert sampled.ref.digest != "ec190e6ccd5e"


# --- accepted images that are drawn for review ------------------------------------------------------------------

SAMPLED = POLICY.model_copy(update={"sample_review": 0.1})
NAMES = [f"request-{number}" for number in range(2_000)]


def drawn(policy: Policy, names: Sequence[str] = NAMES) -> set[str]:
    decisions = {name: policy.decide(scored(quality=4), [QUALITY], drawn_by=name)[0] for name in names}
    assert set(decisions.values()) <= {ACCEPT, REVIEW}
    return {name for name, decision in decisions.items() if decision == REVIEW}


def test_a_share_of_what_is_accepted_goes_to_review_and_the_reason_says_so() -> None:
    found = drawn(SAMPLED)
    # The ids are given, so this is no chance: 10 % of 2000, within four standard deviations.
    assert 146 <= len(found) <= 254
    one = min(found)
    reasons = ("drawn for review: 10 % of accepted images",)
    assert SAMPLED.decide(scored(quality=4), [QUALITY], drawn_by=one) == (REVIEW, reasons)
    tenth = POLICY.model_copy(update={"sample_review": 0.001})
    [few] = {tenth.decide(scored(quality=4), [QUALITY], drawn_by=name)[1] for name in drawn(tenth)}
    assert few == ("drawn for review: 0.1 % of accepted images",)


def test_the_same_images_are_drawn_each_time_and_more_with_a_larger_share() -> None:
    assert drawn(SAMPLED) == drawn(SAMPLED)
    assert drawn(SAMPLED) < drawn(POLICY.model_copy(update={"sample_review": 0.2}))
    assert drawn(POLICY) == set()
    assert drawn(POLICY.model_copy(update={"sample_review": 1})) == set(NAMES)


def test_only_what_would_be_accepted_is_drawn() -> None:
    every = POLICY.model_copy(update={"sample_review": 1, "on_missing": ACCEPT, "on_failure": ACCEPT})
    low = every.decide(scored(quality=2), [QUALITY], drawn_by="r")
    assert low == (REVIEW, ("quality 2.00 < review_below 2.50",))
    assert every.decide(scored(quality=1), [QUALITY], drawn_by="r")[0] == REJECT
    assert every.decide(scored(quality=4), [QUALITY, CORRESPONDENCE], drawn_by="r")[0] == ACCEPT
    assert every.decide({}, [QUALITY], FAILURE, drawn_by="r")[0] == ACCEPT
    assert every.decide(scored(quality=4), [QUALITY]) == (ACCEPT, ())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({**POLICY.model_dump(), "sample_review": share})


GALLERY = "name: gallery\nversion: {version}\naspects: {{quality: {{review_below: {threshold}}}}}\n"


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy's file in the operator's folder."""
    file = tmp_path / "policies" / "gallery.yaml"
    file.parent.mkdir()
    file.write_text(GALLERY.format(version=1, threshold=1.5))
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    return file


@pytest.mark.parametrize("default", [True, False])
def test_a_policy_is_read_again_when_its_file_changes(gallery: Path, default: bool) -> None:
    policies = Policies("gallery" if default else "observe")

    def now() -> Policy:
        return policies.default if default else policies.named("gallery")

    first = now()
    assert (first.version, now()) == (1, first)
    gallery.write_text(GALLERY.format(version=22, threshold=4.5))
    assert (now().version, now().aspects[QUALITY].review_below) == (22, 4.5)


@pytest.mark.parametrize("content", ["name: gallery\nversion: 0\n", "name: [", "", "name: other\nversion: 1\n", None])
def test_a_file_that_becomes_wrong_leaves_in_force_what_it_was(
    gallery: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    policies = Policies("gallery")
    before = policies.default
    if content is None:
        gallery.unlink()
    else:
        gallery.write_text(content)
    assert policies.default == before
    assert policies.default == before
    assert [record.message.endswith("its last content stays in force") for record in caplog.records] == [True]


def test_a_missing_or_broken_policy_is_named_without_a_path(gallery: Path) -> None:
    policies = Policies("default")
    with pytest.raises(ConfigError, match=r"^there is no policy none-such$"):
        policies.named("none-such")
    gallery.write_text("name: [")
    with pytest.raises(ConfigError) as caught:
        policies.named("gallery")
    assert str(caught.value) == "policy gallery cannot be read; the worker's log says why"


# --- a policy in shadow ------------------------------------------------------------------------------------------


def test_a_policy_in_shadow_follows_its_file(gallery: Path, caplog: pytest.LogCaptureFixture) -> None:
    policies = Policies("observe", "gallery")
    assert Policies("observe").shadow is None
    assert (policies.shadow and policies.shadow.version) == 1
    # when it becomes wrong, its last content stays; and when it is gone and comes back, so does it
    gallery.write_text("name: [")
    assert (policies.shadow and policies.shadow.version) == 1
    gallery.unlink()
    assert policies.shadow is None
    assert policies.shadow is None
    assert caplog.text.count("no policy is in shadow: no policies file gallery") == 1
    gallery.write_text(GALLERY.format(version=22, threshold=4.5))
    assert (policies.shadow and policies.shadow.version) == 22


@pytest.mark.parametrize("content", [None, "name: gallery\nversion: 0\n"])
def test_a_policy_in_shadow_that_cannot_be_read_stops_nothing(
    content: str | None, gallery: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.unlink() if content is None else gallery.write_text(content)
    policies = Policies("observe", "gallery")
    assert [policies.shadow for _ in range(3)] == [None] * 3
    assert caplog.text.count("gallery.yaml: ") <= 1
    assert caplog.text.count("no policy is in shadow") == 1
    assert policies.default.name == "observe"
