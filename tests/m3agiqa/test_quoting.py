from __future__ import annotations

import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from m3agiqa.quoting import NAME_CHARS, quoted, writable

UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{C}\p{Zl}\p{Zp}]")


def test_what_can_be_seen_stays() -> None:
    for text in ("", "image_url", "größe", "猫 цена", "a b"):
        assert quoted(text) == text
    assert quoted(7) == "7"


def test_what_cannot_be_seen_is_spelt_out() -> None:
    assert quoted("a\u202eb\x1b[2J\n\ud800\u200b\ufe0f") == r"a\u202eb\x1b[2J\n\ud800\u200b\ufe0f"


def test_a_long_text_is_cut() -> None:
    assert quoted("x" * NAME_CHARS) == "x" * NAME_CHARS
    assert quoted("x" * 500_000) == "x" * NAME_CHARS + "…"
    assert quoted("\u202e" * 500_000, 12) == r"\u202e\u202e" + "…"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters()), st.integers(1, 100))
def test_nothing_unseen_and_nothing_long_is_left(text: str, limit: int) -> None:
    shown = quoted(text, limit)
    assert len(shown) <= limit + 1
    assert shown.isprintable()
    assert not UNSEEN.search(shown)


def test_no_character_of_unicode_is_unseen() -> None:
    for code in range(0x110000):
        assert not UNSEEN.search(quoted(chr(code))), hex(code)


def test_what_cannot_be_written_is_spelt_out() -> None:
    assert writable("größer 猫\n") == "größer 猫\n"
    assert writable("\udcd6 \ud83d") == r"\udcd6 \ud83d"
