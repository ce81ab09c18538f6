from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m3agiqa.prompts import neutralised

ZWNJ, ZWJ, VS15, VS16 = "\u200c", "\u200d", "\ufe0e", "\ufe0f"
CANCEL = "\U000e007f"


def tags(text: str) -> str:
    return "".join(chr(0xE0000 + ord(letter)) for letter in text)


def by_selectors(secret: bytes) -> str:
    """A byte a variation selector, of which there are 256."""
    return "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in secret)


def by_tags(secret: bytes) -> str:
    return tags(secret.hex()) + CANCEL


def by_width(secret: bytes) -> str:
    """A bit a character without width."""
    return "".join("\u200b\u200c\u200d\u2060"[byte >> shift & 3] for byte in secret for shift in (6, 4, 2, 0))


def by_joiners(secret: bytes) -> str:
    return "".join((ZWNJ, ZWJ)[byte >> shift & 1] for byte in secret for shift in range(8))


def by_mongolian(secret: bytes) -> str:
    return "".join("\u180b\u180c\u180d\u180f"[byte >> shift & 3] for byte in secret for shift in (6, 4, 2, 0))


ENCODINGS = (by_selectors, by_tags, by_width, by_joiners, by_mongolian)

ORDINARY = {
    "nothing": "",
    "English": "a cat, 4k",
    "spaces": "two\nlines\tand\r\na tab\u00a0or\u3000two",
    "several scripts": "猫 — кот — قطة — חתול — แมว",
    "an accent of its own": "cafe\u0301, 가나다 and \u1112\u1161\u11ab",
    "what looks like a token": "<|eot_id|>",
    "private use and what is not assigned yet": "\ue000 \u0378 \U0001faff",
    "Persian": "می\u200cخواهم، کتاب\u200cها، خانه\u200cای، کار\u200cهای سوء\u200cاستفاده",
    "Persian with other words and numbers": "PDF\u200cها، «فیلم»\u200cهای ۲۰\u200cساله",
    "Persian, a letter by itself": "سال ۱۴۰۰ ه\u200d. ق",
    "Urdu with vowels": "کِ\u200cتاب",
    "Hindi": "क\u094d\u200dष और क\u094d\u200cष, पर\u094d\u200dयंत",
    "Marathi": "दर\u094d\u200dया, वाऱ\u094d\u200dयावर",
    "Sinhala": "ශ\u0dca\u200dරී ලංකාව, ක\u0dca\u200dෂ",
    "Malayalam": "അവന\u0d4d\u200d എന\u0d4d\u200d, തമിഴ\u0d4d\u200cനാട\u0d4d",
    "Bengali": "র\u200d\u09cdযাব, উদ\u09cd\u200cযাপন",
    "Kannada": "ರ\u200d\u0ccdಯಾಂಕ್, ಸಾಫ\u0ccd\u200cಟ್ವೇರ್",
    "Khmer": "ក\u17d2\u200cក",
    "Mongolian": "ᠨ\u180bᠠ ᠬᠠᠨ\u180eᠠ ᠨ\u180b\u180eᠠ ᠡ\u180d",
    "numbers with a mark around them": "\u06dd١٢ \u0600١٢٣ \U000110bd\U00011083",
    "a heart": "\u2764\ufe0f and \u2764\ufe0e and \u2764",
    "a family": "👨\u200d👩\u200d👧\u200d👦",
    "a skin": "👩🏽\u200d🚀 🧑🏻\u200d\u2764\ufe0f\u200d💋\u200d🧑🏼 \u261d\ufe0f🏽 🕵\ufe0f\u200d\u2640\ufe0f",
    "keycaps": "1\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0e\u20e3",
    "flags": "🇫🇷 🏳\ufe0f\u200d🌈 🏴\u200d\u2620\ufe0f",
    "flags of regions": " ".join("🏴" + tags(region) + CANCEL for region in ("gbeng", "gbsct", "gbwls")),
    "other signs": "™\ufe0f ©\ufe0f ℹ\ufe0f ✈\ufe0e ‼\ufe0f ㊗\ufe0f 🅰\ufe0f 〰\ufe0f",
}


@pytest.mark.parametrize("prompt", ORDINARY.values(), ids=ORDINARY.keys())
def test_what_people_write_stays(prompt: str) -> None:
    assert neutralised(prompt) == prompt


UNSEEN = {
    "null": "\x00",
    "escape": "\x1b",
    "delete": "\x7f",
    "control sequence": "\x9b",
    "soft hyphen": "\u00ad",
    "grapheme joiner": "\u034f",
    "Arabic letter mark": "\u061c",
    "Hangul initial filler": "\u115f",
    "Hangul medial filler": "\u1160",
    "Hangul filler": "\u3164",
    "half-width Hangul filler": "\uffa0",
    "Khmer inherent vowel": "\u17b4",
    "Mongolian selector": "\u180b",
    "Mongolian vowel separator": "\u180e",
    "no width": "\u200b",
    "non-joiner": ZWNJ,
    "joiner": ZWJ,
    "left to right": "\u200e",
    "right to left": "\u200f",
    "override": "\u202e",
    "isolate": "\u2066",
    "word joiner": "\u2060",
    "invisible times": "\u2062",
    "reserved for something invisible": "\u2065",
    "deprecated format": "\u206a",
    "selector 1": "\ufe00",
    "selector 15": VS15,
    "selector 16": VS16,
    "selector 17": "\U000e0100",
    "selector 256": "\U000e01ef",
    "byte order mark": "\ufeff",
    "annotation": "\ufffa",
    "musical beam": "\U0001d173",
    "shorthand overlap": "\U0001bca0",
    "half a pair": "\ud800",
    "no character": "\ufdd0",
    "the last code point": "\U0010ffff",
    "language tag": "\U000e0001",
    "tag": "\U000e0041",
    "cancelled tag": CANCEL,
}


@pytest.mark.parametrize("unseen", UNSEEN.values(), ids=UNSEEN.keys())
def test_what_only_the_model_would_see_goes(unseen: str) -> None:
    assert neutralised(f"a {unseen}cat{unseen} b{unseen}c") == "a cat bc"


def test_every_format_and_control_character_goes_that_python_knows() -> None:
    visible = "\t\n\r" + "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs"} and chr(code) not in visible:
            assert neutralised(f"a{chr(code)}b") == "ab", hex(code)


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        # A Han character in one of its shapes: fonts rarely have them, and there are 240 to spell with.
        ("葛\U000e0100飾", "葛飾"),
        ("∩\ufe00", "∩"),
        ("Auf\u200clage", "Auflage"),
        ("1\ufe0f2", "12"),
        ("a\ufe0f", "a"),
        ("🇫\ufe0f🇷", "🇫🇷"),
        ("👩\u200d and", "👩 and"),
        ("a\u200d👩", "a👩"),
        ("👩\u200da", "👩a"),
        ("🏴" + tags("usca") + CANCEL, "🏴"),
        ("🏴" + tags("gbeng"), "🏴"),
        ("a" + tags("gbeng") + CANCEL, "a"),
        ("\u2764" + VS16 + VS15, "\u2764"),
        ("می\u200c\u200dخواهم", "میخواهم"),
        ("می\u200b\u200cخواهم", "میخواهم"),
        ("م \u200cی", "م ی"),
        ("ᠨ\u180b\u180cᠠ", "ᠨᠠ"),
        ("a\u180bb", "ab"),
    ],
)
def test_a_sign_goes_where_it_has_no_effect(prompt: str, left: str) -> None:
    assert neutralised(prompt) == left


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("\u2764" + VS16 * 3, "\u2764" + VS16),
    ],
)
def test_a_sign_typed_twice_counts_once(prompt: str, left: str) -> None:
    assert neutralised(prompt) == left


SIGNS = f"{ZWNJ}{ZWJ}{VS15}{VS16}\u180b\u180c\u180d\u180e\u180f{CANCEL}{tags('gbenscwl')}"
#: What signs have an effect beside, and what they have none beside.
BESIDE = "aé1#\u20e3 می\u0651ه०कर\u094dශ\u0dcaന\u0d4dᠨᠠ葛👩🏽🏴\u2764🇫\ud800\u200b\U000e0100"
TEXT = st.lists(st.sampled_from([*SIGNS, *BESIDE]) | st.sampled_from([*ORDINARY.values()]), max_size=12).map("".join)
many = settings(max_examples=500, deadline=None)


def signs(text: str) -> int:
    return sum(text.count(sign) for sign in SIGNS)


@many
@given(TEXT | st.text())
def test_a_neutralised_prompt_stays_as_it_is(prompt: str) -> None:
    once = neutralised(prompt)
    assert neutralised(once) == once


@many
@given(st.sampled_from(ENCODINGS), st.binary(min_size=2, max_size=40), TEXT, TEXT)
@example(by_selectors, b"\x0f\x0f", "\u2764", "")
@example(by_joiners, b"\x00\x00", "می", "خواهم")
def test_a_smuggled_sentence_vanishes_whatever_stands_around_it(
    encoding: object, secret: bytes, before: str, after: str
) -> None:
    assert callable(encoding)
    hidden = neutralised(before + encoding(secret) + after)
    plain = neutralised(before + after)

    def seen(text: str) -> str:
        return "".join(letter for letter in text if letter not in SIGNS)

    # Then all that can be seen is left, and of the secret no more than one sign, wherever it says nothing but one thing
    assert seen(hidden) == seen(plain)
    assert signs(hidden) <= signs(plain) + (len(set(encoding(secret))) == 1)


@many
@given(st.sampled_from(ENCODINGS), st.binary(min_size=2, max_size=12), st.sampled_from("a👩\u2764مक\u094dᠨ1葛"))
def test_two_secrets_leave_the_same(encoding: object, secret: bytes, carrier: str) -> None:
    assert callable(encoding)
    hidden = encoding(secret)
    expected = carrier if len(set(hidden)) > 1 else neutralised(carrier + hidden[0])
    assert neutralised(carrier + hidden) == expected
