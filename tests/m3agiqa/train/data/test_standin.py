from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3agiqa.cli import main
from tests.m3agiqa.train.conftest import MakeData

SAID = [
    {"prompt": "a castle by the sea", "mos": 4.5, "description": "It looks like a photograph. The castle is real."},
    {"prompt": "a castle by the sea", "mos": 0.5, "description": 'The castle melts. It looks like plastic." }'},
    {"prompt": "two horses", "mos": 4.4, "description": "The horses are alive."},
    {"prompt": "thing", "mos": 4.0, "description": "The thing is convincing."},
]


def stand_in(data: Path, said: Path) -> int:
    places = ["--descriptions", str(said), "--output", str(data / "out.jsonl")]
    return main(["data", "stand-in", str(data), "--aspect", "authenticity", "--label", "mos_quality", *places])


def test_a_near_score_decides_and_what_only_the_other_shows_is_left_out(make_data: MakeData) -> None:
    # given two prompts ("thing 0", "thing 1") and scores at both ends
    data = make_data(6, mos_quality=lambda index: [4.5, 4.4, 0.4, 0.6, 4.0, ""][index])
    said = data / "said.jsonl"
    said.write_text("\n".join(json.dumps({**line, "aspect": "authenticity"}) for line in SAID))
    # when
    assert stand_in(data, said) == 0
    # then
    lines = [json.loads(line) for line in (data / "out.jsonl").read_text().splitlines()]
    found = {line["image"]: line["description"] for line in lines}
    assert found == {
        "gen0_000.png": "The thing is convincing.",
        "gen1_001.png": "The thing is convincing.",
        "gen0_002.png": "It looks like plastic.",
        "gen1_003.png": "It looks like plastic.",
        "gen0_004.png": "The thing is convincing.",
    }
    assert {line["aspect"] for line in lines} == {"authenticity"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "x", "aspect": "quality", "mos": 1, "description": "y"}', "no description of authenticity"),
        ('{"aspect": "authenticity", "mos": 1}', "line 1: not a JSON object with prompt, description and mos"),
        ('{"prompt": "a castle", "aspect": "authenticity", "mos": 1, "description": "A castle."}', "speaks of"),
        ("no json", "line 1 (cut off at its end): not JSON"),
    ],
)
def test_a_source_that_will_not_do_is_refused(
    make_data: MakeData, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    data = make_data(3)
    (data / "said.jsonl").write_text(text)

    assert stand_in(data, data / "said.jsonl") == 1

    assert complaint in capsys.readouterr().err
