"""The commands of docs/policies.md that decide by stored scores do what the page says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from m3agiqa import cli
from m3agiqa.console import DONE
from m3agiqa.contract import Aspect, Decision
from m3agiqa.policy import Policy
from m3agiqa.report import judged
from tests.pages import DOCS, commands_in_blocks, read
from tests.support import Web
from tests.support_verdicts import scored, verdict


def commands() -> list[list[str]]:
    """Arguments of each command of the page, in order."""
    page = read(DOCS / "policies.md")
    lines = [words[1:] for words in commands_in_blocks() if words[0].endswith("m3agiqa") and shlex.join(words) in page]
    return [words for words in lines if words[0] in ("policy", "redecide")]


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
    assert [words[0] for words in commands()] == ["policy", "policy", "redecide", "redecide"]
    assert [cli.main(words) for words in commands()] == [DONE] * 4
    # then the files that it names are there, and the receiver of what changed was told
    [flip] = judged.read(tmp_path / "flips.jsonl")
    assert (flip.id, flip.decision, flip.scores[Aspect.QUALITY].score) == ("a", Decision.REVIEW, 2.7)
    policy = Policy.load(str(tmp_path / "policies" / "next.yaml"))
    assert [item.policy for item in judged.read(tmp_path / "redecided.jsonl")] == [policy.ref.label] * 2
    assert (web.count("a"), web.count("b")) == (1, 0)
