"""The commands of docs/policies.md do what the page says; `batch`, which it shows as well, has tests of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from m3agiqa import cli
from m3agiqa.console import DONE
from m3agiqa.contract import Aspect, Decision, Verdict
from m3agiqa.policy import Policy
from m3agiqa.report import judged
from tests.pages import DOCS, commands_in_blocks, read
from tests.support import Web
from tests.support_verdicts import scored, verdict


def commands(*kinds: str) -> list[list[str]]:
    """Arguments of each command of these kinds on the page, in order."""
    page = read(DOCS / "policies.md")
    lines = [words[1:] for words in commands_in_blocks() if words[0].endswith("m3agiqa") and shlex.join(words) in page]
    return [words for words in lines if words[0] in kinds]


def test_the_commands_of_the_page_run_one_after_the_other(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the files that the page names: a stricter policy, verdicts of which one flips, and where they go
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "next.yaml").write_text("name: next\nversion: 1\naspects: {quality: {review_below: 3}}\n")
    made = [verdict(name, aspects=scored(quality=score)) for name, score in (("a", 2.7), ("b", 4.0))]
    (tmp_path / "verdicts.jsonl").write_text("".join(item.model_dump_json() + "\n" for item in made))
    urls = [f"{item.request_id},{web.url(item.request_id)}\n" for item in made]
    (tmp_path / "requests.csv").write_text("".join(["request_id,callback_url\n", *urls]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3AGIQA_DELIVER_ALLOW_HOSTS", web.endpoint)
    monkeypatch.setenv("M3AGIQA_WEBHOOK_SECRETS", "whsec_" + "c2VjcmV0" * 5)
    # when a reader copies what it shows
    assert [words[0] for words in commands("policy", "redecide")] == ["policy", "policy", "redecide", "redecide"]
    assert [cli.main(words) for words in commands("policy", "redecide")] == [DONE] * 4
    # then the files that it names are there, and the receiver of what changed was told
    [flip] = judged.read(tmp_path / "flips.jsonl")
    assert (flip.id, flip.decision, flip.scores[Aspect.QUALITY].score) == ("a", Decision.REVIEW, 2.7)
    policy = Policy.load(str(tmp_path / "policies" / "next.yaml"))
    assert [item.policy for item in judged.read(tmp_path / "redecided.jsonl")] == [policy.ref.label] * 2
    assert (web.count("a"), web.count("b")) == (1, 0)


def made(number: int, shift: float) -> Verdict:
    """An image whose scores grow with its number from 0 to 5, as a model that is off by `shift` sees it."""
    score = min(5.0, number / 160 + shift)
    decision = Decision.ACCEPT if score >= 2.5 else Decision.REVIEW
    aspects = scored(quality=score, correspondence=score, authenticity=score)
    return verdict(f"i-{number}", aspects=aspects, decision=decision)


def test_the_commands_that_look_at_labels_and_models_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given 800 images, of which a person accepts those from 2 on, and what a milder model says of them
    for name, shift in (("verdicts", 0.0), ("old", 0.0), ("new", 0.5)):
        lines = [made(number, shift).model_dump_json() + "\n" for number in range(800)]
        (tmp_path / f"{name}.json").write_text("".join(lines))
    labels = [f"i-{number},{'accept' if number >= 320 else 'reject'}\n" for number in range(800)]
    (tmp_path / "labels.csv").write_text("".join(["id,label\n", *labels]))
    (tmp_path / "policies").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3AGIQA_CONFIG_DIR", str(tmp_path))
    # when a reader copies what the page shows
    shown = commands("calibrate", "compare", "translate")
    assert [words[0] for words in shown] == ["calibrate", "calibrate", "compare", "translate"]
    assert [cli.main(words) for words in shown] == [DONE] * 4
    # then the policy rejects about what the person does, and the translated one what the default did, by the new scores
    default, found, moved = (
        Policy.load(name).aspects[Aspect.QUALITY].reject_below for name in ("default", "gallery", "gallery-new")
    )
    assert 1.8 < found < 2.1
    assert moved == pytest.approx(default + 0.5, abs=0.1)
    assert {file.name for file in tmp_path.glob("*.png")} == {"gallery.png", "compare.png"}
    # and the page has the images about which the models differ
    assert (tmp_path / "differ" / "index.html").exists()
    said = "".join(file.read_text() for file in (tmp_path / "differ" / "data").glob("*.js"))
    assert set(re.findall(r"i-\d+", said)) == {f"i-{number}" for number in range(320, 400)}
