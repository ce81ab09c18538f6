"""Files of JSON objects: one a line, or one list of them; which it is shows in the content, not in the name.

Lines end at a line feed alone: what else Unicode calls a line break may stand in a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from m3agiqa.errors import DataError
from m3agiqa.inputs import decoded, read_bytes, read_text

#: What may be half of a character: two of them are a whole one.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

#: Where an object stands, in words for a message, and the object.
Located = tuple[str, dict[str, Any]]


def dump(items: Iterable[Any]) -> str:
    """Items as lines."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def read(path: Path) -> list[Located]:
    """All objects of a file.

    Raises:
        DataError: unreadable, empty, or something in it is no JSON object; says what.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty")
    if text.lstrip().startswith("["):
        return [_object(f"{path}, item {number}", item) for number, item in enumerate(_loads(f"{path}", text), 1)]
    return _lines(path, text)


def read_grown(path: Path) -> tuple[str, list[Located]]:
    """What was written line by line, perhaps by a run that was killed.

    Returns:
        The whole lines as they stand, and their objects; a last line that was cut off is in neither.

    Raises:
        DataError: as `read`.
    """
    data = read_bytes(path)
    end = data.rfind(b"\n") + 1
    whole, rest = decoded(path, data[:end]), data[end:].lstrip()
    lines = _lines(path, whole)
    if rest and not rest.startswith(b"{"):
        raise DataError(f"{path}: its last line is no JSON object, nor the beginning of one")
    return whole, lines


def _lines(path: Path, text: str) -> list[Located]:
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if line.strip():
            cut_off = " (cut off at its end)" if number == len(lines) else ""
            found.append(_object(where, _loads(f"{where}{cut_off}", line)))
    return found


def _object(where: str, item: Any) -> Located:
    if not isinstance(item, dict):
        raise DataError(f"{where}: not a JSON object")
    return where, item


def _loads(where: str, text: str) -> Any:
    try:
        content = json.loads(text, parse_constant=_refuse)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: it holds half of a character") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
