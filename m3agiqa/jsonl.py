"""Files of JSON objects, either one on each line or one list; the content decides which, not the file's name.

Only a line feed ends a line: a text may hold the other line breaks of Unicode.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from m3agiqa.errors import DataError
from m3agiqa.inputs import decoded, opened, read_bytes, reading

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
    return list(stream(path))


def stream(path: Path) -> Iterator[Located]:
    """Read a file's objects one by one. Lines are read as they are asked for, a list is read whole.

    Raises:
        DataError: as `read`, once reading comes to it.
    """
    with opened(path) as file, reading(path):
        lines = enumerate(_without_mark(file), 1)
        first = next(((number, line) for number, line in lines if line.strip()), None)
        if first is None:
            raise DataError(f"{path} is empty")
        if first[1].lstrip().startswith(b"["):
            text = decoded(path, first[1] + file.read(), line=first[0])
            yield from (_object(f"{path}, item {number}", item) for number, item in enumerate(_list(path, text), 1))
        else:
            yield from _lines(path, chain([first], lines))


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
    lines = list(_lines(path, enumerate(io.BytesIO(data[:end]), 1)))
    if rest and not rest.startswith(b"{"):
        raise DataError(f"{path}: its last line is no JSON object, nor the beginning of one")
    return whole, lines


def _without_mark(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, without a byte order mark."""
    yield next(file, b"").removeprefix(codecs.BOM_UTF8)
    yield from file


def _lines(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[Located]:
    for number, line in lines:
        if line.strip():
            where = f"{path}, line {number}"
            cut_off = "" if line.endswith(b"\n") else " (cut off at its end)"
            yield _object(where, _loads(f"{where}{cut_off}", decoded(path, line, line=number)))


def _list(path: Path, text: str) -> list[Any]:
    content = _loads(f"{path}", text)
    assert isinstance(content, list), "it begins with a bracket"
    return content


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
