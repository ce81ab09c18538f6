from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from m3agiqa.errors import DataError
from m3agiqa.tables import Row, open_table

NEEDED = ("image_path", "prompt")


def read(path: Path, content: bytes | str) -> list[Row]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with open_table(path, NEEDED) as table:
        return list(table)


def outline(rows: list[Row]) -> list[tuple[int, str]]:
    """Each row's line, and its prompt or the beginning of what is wrong with it."""
    return [(row.line, row.values["prompt"] if row.error is None else f"! {row.error[:12]}") for row in rows]


@pytest.mark.parametrize(
    "content",
    [
        b"image_path,prompt\na.png,a cat\n",
        b"Image_Path , PROMPT\na.png,a cat\n",
        b'image_path, prompt\na.png, "a cat"\n',
        b"image_path;prompt\na.png;a cat\n",
        b"image_path\tprompt\na.png\ta cat\n",
        b"image_path,prompt\r\na.png,a cat\r\n",
        b"image_path,prompt\ra.png,a cat\r",
        b'"image_path","prompt"\n"a.png","a cat"',
        b"\xef\xbb\xbfimage_path,prompt\na.png,a cat\n",
        "image_path\tprompt\na.png\ta cat\n".encode("utf-16"),
        b"\xfe\xff" + "image_path,prompt\na.png,a cat\n".encode("utf-16-be"),
        b"\n  \nimage_path,prompt\n\na.png,a cat\n   \n",
        b"image_path,prompt,,\na.png,a cat,,\n",
    ],
)
def test_tables_are_read_as_people_and_programs_write_them(tmp_path: Path, content: bytes) -> None:
    [row] = read(tmp_path / "t.csv", content)

    assert (row.values, row.error) == ({"image_path": "a.png", "prompt": "a cat"}, None)


def test_cells_stay_as_they_are(tmp_path: Path) -> None:
    prompts = ['a "cat", small', "two\nlines", "  spaces ", "=1+1", 'five 5" nails', "一只猫 😀", ""]
    text = "image_path,prompt\n" + "".join('x,"{}"\n'.format(prompt.replace('"', '""')) for prompt in prompts)

    assert [row.values["prompt"] for row in read(tmp_path / "t.csv", text)] == prompts


def test_a_bare_quote_inside_a_cell_is_a_quote(tmp_path: Path) -> None:
    [row] = read(tmp_path / "t.csv", 'image_path,prompt\na.png,five 5" nails\n')

    assert row.values["prompt"] == 'five 5" nails'


def test_a_row_with_other_cells_than_the_first_line_fails_alone(tmp_path: Path) -> None:
    rows = read(tmp_path / "t.csv", "image_path,prompt\na,a cat, on a mat\nb\nc,good\nd,too,\n")

    assert outline(rows) == [(2, "! it has 3 cel"), (3, "! it has 1 cel"), (4, "good"), (5, "! it has 3 cel")]
    assert "needs quotes" in (rows[0].error or "")
    assert rows[0].values == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # never closed
        ('a,"open\nb,two\nc,three\n', [(2, "!"), (3, "two"), (4, "three")]),
        # closed by the opening quote of another row
        ('a,"open\nb,two\nc,"three, four"\nd,five\n', [(2, "!"), (3, "two"), (4, "three, four"), (5, "five")]),
        # closed by a stray quote, with a cell more
        ('a,"open\nb,two\nc,three",x\n', [(2, "!"), (3, "two"), (4, "!")]),
        # text behind a closing quote
        ('a,"good" bad\nb,two\n', [(2, "!"), (3, "two")]),
        # and a sound row of several lines behind it
        ('a,"open\nb,"two\nlines"\n', [(2, "!"), (3, "two\nlines")]),
    ],
)
def test_quotes_that_do_not_match_swallow_no_row(tmp_path: Path, text: str, expected: list[tuple[int, str]]) -> None:
    rows = read(tmp_path / "t.csv", "image_path,prompt\n" + text)

    assert [(line, what[:1] if what.startswith("!") else what) for line, what in outline(rows)] == expected


def test_an_unclosed_quote_far_above_the_end_swallows_no_row(tmp_path: Path) -> None:
    count = 20_000
    text = 'image_path,prompt\nx,"open\n' + "a.png,a cat of some length\n" * count

    rows = read(tmp_path / "t.csv", text)

    assert sum(row.error is None for row in rows) == count
    assert [(row.line, row.error is None) for row in (rows[0], rows[-1])] == [(2, False), (count + 2, True)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"x,caf\xe9\n", "UTF-8"),
        (b"x,a\0b\n", "NUL"),
        (b"x," + b"y" * 140_000 + b"\n", "more than 131072 characters"),
    ],
)
def test_what_is_no_text_fails_alone(tmp_path: Path, bad: bytes, words: str) -> None:
    first, second = read(tmp_path / "t.csv", b"image_path,prompt\n" + bad + b"y,fine\n")

    assert words in (first.error or "")
    assert second.values["prompt"] == "fine"


def test_a_cut_character_of_utf_16_fails_alone(tmp_path: Path) -> None:
    first, second = read(tmp_path / "t.csv", "image_path,prompt\nx,fine\ny,cut".encode("utf-16")[:-1])

    assert first.error is None
    assert "UTF-8" in (second.error or "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"image;prompt\na;b\n", r"columns image_path and prompt.*read as image \| prompt \(separator: semicolon\)"),
        (b"image_url,prompt\n", "another command reads URLs"),
        (b"prompt,image_path,Prompt\n", "names a column twice: prompt"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no CSV file in UTF-8"),
        ("image_path,prompt\n".encode("utf-16-le"), "no CSV file in UTF-8"),
        (b"\xff\xfe\0\0i\0\0\0", "no CSV file in UTF-8"),
        (b"x" * 100_000, "no CSV file in UTF-8"),
        (b'image_path,"prompt\n', "quotes in its first line"),
        (None, "No such file"),
    ],
)
def test_what_is_no_table_is_one_line_that_shows_what_was_read(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)

    with (
        pytest.raises(DataError, match=words) as caught,
        open_table(path, NEEDED, {"image_url": "another command reads URLs"}),
    ):
        pass

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_paths_that_are_no_files_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / ("x" * 300), Path("/dev/zero"), Path(os.fsdecode(b"/\xd6\xd0.csv"))):
        with pytest.raises(DataError) as caught, open_table(path, NEEDED):
            pass
        str(caught.value).encode()


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"image_path,prompt\na,b\n",))
    writer.start()
    with open_table(pipe, NEEDED) as table:
        assert [row.values["prompt"] for row in table] == ["b"]
    writer.join()
