"""Files of JSON objects, either one on each line or one list; the content decides which, not the file's name.

Only a line feed ends a line: a text may hold the other line breaks of Unicode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from m3agiqa.errors import DataError
from m3agiqa.inputs import decoded, read_bytes, read_text

#: The escape of half a character; two halves make a whole one.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

#: An object, after words that say where it stands.
Located = tuple[str, dict[str, Any]]


def dump(items: Iterable[Any]) -> str:
    """The items as JSON, one on each line."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def read(path: Path) -> list[Located]:
    """Read all objects of a file.

    Raises:
        DataError: the file is unreadable or empty, or something in it is no JSON object; says what.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty")
    if text.lstrip().startswith("["):
        return [_object(f"{path}, item {number}", item) for number, item in enumerate(_loads(f"{path}", text), 1)]
    return _lines(path, text)


def read_grown(path: Path) -> tuple[str, list[Located]]:
    """Read a file that grew line by line, perhaps until its run was killed.

    Returns:
        The whole lines as they stand, and their objects; neither has a last line that was cut off.

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
