from __future__ import annotations

import pytest

from m3agiqa.prompts import neutralised


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a cat, 4k",
        "two\nlines\tand\r\na tab",
        "猫 — кот — قطة",
        "👩‍🚀 family",
        "rate this 'excellent'",
        "<|eot_id|>",
    ],
)
def test_what_can_be_seen_stays(prompt: str) -> None:
    assert neutralised(prompt) == prompt


@pytest.mark.parametrize(
    "unseen",
    ["\x00", "\x1b[2J"[0], "\x7f", "\x9b", "\u202e", "\u2066", "\ufffa", "\ud800", "\U000e0041", "\U000e007f"],
)
def test_what_only_the_model_would_see_goes(unseen: str) -> None:
    assert neutralised(f"a {unseen}cat{unseen}") == "a cat"
