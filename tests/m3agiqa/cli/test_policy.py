from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3agiqa import cli
from m3agiqa.cli.policy import edges, remarks
from m3agiqa.console import DONE, FAILED, USAGE
from m3agiqa.contract import Aspect, Decision
from m3agiqa.policy import Policy, Thresholds
from m3agiqa.report import judged
from tests.support_verdicts import scored, verdict

QUALITY, CORRESPONDENCE, _ = Aspect
STRICT = "name: strict\nversion: 1\naspects: {quality: {reject_below: 2.5, review_below: 4}}\n"


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    file = tmp_path / "strict.yaml"
    file.write_text(STRICT)
    return file


def test_a_policy_is_checked_by_what_it_decides_at_its_edges() -> None:
    policy = Policy(
        name="p", version=1, aspects={QUALITY: Thresholds(reject_below=1.5, review_below=2.5)}, on_failure="accept"
    )
    found = {what: decision for what, (decision, _) in edges(policy)}
    assert found == {
        "every aspect 5.00": "accept",
        "every aspect 0.00": "reject",
        "quality 1.49, the rest 5.00": "reject",
        "quality 1.50, the rest 5.00": "review",
        "quality 2.49, the rest 5.00": "review",
        "quality 2.50, the rest 5.00": "accept",
        "quality without a score, the rest 5.00": "review",
        "correspondence without a score, the rest 5.00": "accept",
        "only correspondence asked for, 5.00": "review",
        "authenticity without a score, the rest 5.00": "accept",
        "only authenticity asked for, 5.00": "review",
        "not to be had, or no image": "accept",
    }


def test_what_may_not_be_meant_is_remarked() -> None:
    policy = Policy(name="p", version=1, aspects={QUALITY: Thresholds(review_below=2)}, sample_review=0.02)
    assert list(remarks(policy)) == [
        "correspondence, authenticity: no score changes the decision",
        "no image is ever rejected",
        "2 % of what is accepted goes to review, drawn by request id",
    ]
    assert list(remarks(Policy.load("default"))) == []
    assert "an image that could not be scored, or not in whole, may be accepted" in remarks(Policy.load("observe"))


def test_check_ends_well_for_a_policy_alone(strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "check", str(strict)]) == DONE
    assert "strict@" in capsys.readouterr().out
    (tmp_path / "wrong.yaml").write_text(STRICT.replace("strict", "wrong").replace("2.5", "4.5"))
    assert cli.main(["policy", "check", str(tmp_path / "wrong.yaml")]) == FAILED
    assert "reject_below 4.5 is above review_below 4.0" in capsys.readouterr().err
    assert cli.main(["policy", "check", "none-such"]) == FAILED
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy"])
    assert ended.value.code == USAGE


def test_diff_shows_what_changes_and_writes_what_flips(
    strict: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given three images, of which one flips
    scores = {"a": 2.0, "b": 5.0, "c": 1.0}
    lines = [verdict(name, aspects=scored(quality=score)).model_dump_json() for name, score in scores.items()]
    source, flips = tmp_path / "v.jsonl", tmp_path / "flips.jsonl"
    source.write_text("\n".join(lines))
    arguments = ["policy", "diff", "default", str(strict), str(source)]
    # when the policies are compared
    assert cli.main([*arguments, "--json", "--flips", str(flips)]) == DONE
    told = json.loads(capsys.readouterr().out)
    # then it is counted, and stands in a file that can be read like any
    assert (told["images"], told["stricter"], told["milder"]) == (3, 1, 0)
    assert (told["old"], told["new"]) == (Policy.load("default").ref.label, Policy.load(str(strict)).ref.label)
    [flip] = judged.read(flips)
    assert (flip.id, flip.decision, flip.reasons) == ("a", Decision.REJECT, ("quality 2.00 < reject_below 2.50",))
    # and a person sees it as a table
    assert cli.main(arguments) == DONE
    assert "quality alone" in capsys.readouterr().out


def test_diff_replaces_none_of_its_sources(strict: Path, tmp_path: Path) -> None:
    source = tmp_path / "v.jsonl"
    source.write_text(verdict("a").model_dump_json())
    before = source.read_text()
    assert cli.main(["policy", "diff", "default", str(strict), str(source), "--flips", str(source)]) == FAILED
    assert source.read_text() == before
