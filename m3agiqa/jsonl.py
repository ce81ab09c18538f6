"""Files of JSON objects, either one on each line or one list; the content decides which, not the file's name.

Only a line feed ends a line: a text may hold the other line breaks of Unicode.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, count
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


def each(path: Path, most_bytes: int) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """Each line of a file that is not blank: its number, and its object or what is wrong with it.

    Raises:
        DataError: the file cannot be read.
    """
    with opened(path) as file, reading(path):
        for number in count(1):
            line = rest = file.readline(most_bytes)
            while len(rest) == most_bytes and not rest.endswith(b"\n"):
                rest = file.readline(most_bytes)
            if not line:
                return
            if line.removeprefix(codecs.BOM_UTF8).strip():
                try:
                    yield number, _read_line(line, most_bytes)
                except DataError as error:
                    yield number, error


def _read_line(line: bytes, most_bytes: int) -> dict[str, Any]:
    if len(line) == most_bytes:
        raise DataError(f"it has {most_bytes} bytes or more")
    try:
        item = loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError:
        raise DataError("it is not in UTF-8") from None
    if not isinstance(item, dict):
        raise DataError("not a JSON object")
    return item


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
        return loads(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def loads(text: str) -> Any:
    """What a text in JSON says.

    Raises:
        DataError: it is no JSON, or holds what UTF-8 has no way to write.
    """
    try:
        content = json.loads(text, parse_constant=_refuse)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError("it holds half of a character") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
