"""Quotes a stranger's words in a message, a log or a reason: short, on one line, and with nothing hidden."""

from __future__ import annotations

import re

#: Characters shown of a name that a stranger chose, such as a field's.
NAME_CHARS = 64
#: Characters shown of a user's path.
PATH_CHARS = 240

#: Characters that no font shows, although Python calls them printable: fillers, joiners, variation selectors.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def quoted(text: object, limit: int = NAME_CHARS) -> str:
    """`text` with an escape such as `\\u202e` for each character that nobody sees, cut with an ellipsis after `limit`.

    It holds no control, format or direction character, no line break, and no half of a surrogate pair.
    """
    whole = str(text)
    # Only the part that is shown is looked at: a name may be as long as a message.
    shown = "".join(
        character if character.isprintable() and not _BLANK.match(character) else _escape(character)
        for character in whole[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def writable(text: str) -> str:
    """`text` with an escape such as `\\udcd6` for what UTF-8 cannot write: half of a surrogate pair, or a byte of
    a file's name that is no UTF-8.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
