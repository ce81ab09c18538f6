from __future__ import annotations

from pathlib import Path

import pytest

from m3agiqa import jsonl
from m3agiqa.errors import DataError

#: What other readers take for the end of a line.
BREAKS = "one\u2028two\u2029three\u0085four\u001cfive\u000bsix\u000cseven"


def objects(path: Path) -> list[object]:
    return [item for _, item in jsonl.read(path)]


def test_lines_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    items = [{"text": BREAKS}, {"text": "and\nanother"}]
    path = tmp_path / "x.jsonl"
    path.write_text(jsonl.dump(items), encoding="utf-8")

    assert path.read_bytes().count(b"\n") == 2
    assert objects(path) == items
    assert jsonl.read_grown(path)[0] == jsonl.dump(items)


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}]', '\ufeff\n[\n {"a": 1},\n {"a": 2}\n]\n', '{"a": 1}\r\n\r\n{"a": 2}']
)
def test_a_list_is_known_by_its_content(tmp_path: Path, text: str) -> None:
    for name in ("x.json", "x.jsonl"):
        (tmp_path / name).write_bytes(text.encode())
        assert objects(tmp_path / name) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a"\n{"a": 3}\n', "line 2: not JSON"),
        ('{"a": 1}\n{"a"', r"line 2 \(cut off at its end\): not JSON"),
        ('{"a": 1}\n7\n', "line 2: not a JSON object"),
        ('[{"a": 1}, 7]', "item 2: not a JSON object"),
        ('[{"a": 1}', "not JSON"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": "\\ud83d"}', "it holds half of a character"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_what_is_broken_is_placed(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        jsonl.read(tmp_path / "x.jsonl")


def test_a_character_may_be_written_as_two_halves(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert objects(tmp_path / "x.jsonl") == [{"a": "\U0001f600"}]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    # Given lines of which a killed process wrote the last in part
    path = tmp_path / "x.jsonl"
    first, last = (jsonl.dump([{"a": animal}]).encode() for animal in ("dog", "猫"))
    for end in range(len(last)):
        path.write_bytes(first + last[:end])

        # Then wherever it ends, the other is there
        assert jsonl.read_grown(path) == (first.decode(), [(f"{path}, line 1", {"a": "dog"})])

    # And one that is broken in the middle is none that was cut off
    path.write_bytes(b'{"a"\n' + first)
    with pytest.raises(DataError, match="line 1: not JSON"):
        jsonl.read_grown(path)
    path.write_bytes(first + b"something else")
    with pytest.raises(DataError, match="no JSON object"):
        jsonl.read_grown(path)
