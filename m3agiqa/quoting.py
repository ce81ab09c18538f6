"""How a stranger's words stand in a message, a log or a reason: short, on one line, and nothing hidden in them."""

from __future__ import annotations

import re

#: Characters of a name that a stranger chose, such as a field's.
NAME_CHARS = 64
#: Characters of a path that a user gave.
PATH_CHARS = 240

#: What Python calls printable, although no font shows it: fillers, joiners of graphemes, variation selectors.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def quoted(text: object, limit: int = NAME_CHARS) -> str:
    """`text` with an escape such as `\\u202e` for whatever nobody sees, and an ellipsis after `limit` characters.

    No control, format or direction character, line break, or half of a surrogate pair is left.
    """
    whole = str(text)
    # No more than what can be shown is looked at: a name may be as long as a message.
    shown = "".join(
        character if character.isprintable() and not _BLANK.match(character) else _escape(character)
        for character in whole[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def writable(text: str) -> str:
    """`text` with an escape such as `\\udcd6` for what UTF-8 and JSON cannot write: a byte of a file's name that is no
    UTF-8, or half of a surrogate pair.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
