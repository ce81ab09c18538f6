"""Reads what servers answer: status, length, redirect, and when to come again."""

from __future__ import annotations

import re
import string
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import BadStatusLine, HTTPResponse
from urllib.parse import quote, urlsplit

import requests

#: Statuses that may be gone at the next attempt, beside every 5xx.
TEMPORARY_STATUSES = frozenset({408, 425, 429})
#: Interim answers (103 and the like) that may come before the final one.
_MOST_INTERIM = 32


class Answer(HTTPResponse):
    """Python's HTTP answer, which copes with interim answers before it and with odd lengths."""

    def begin(self) -> None:
        """Read up to the final answer: Python itself skips no interim answer but 100."""
        for _ in range(_MOST_INTERIM):
            super().begin()
            if not 100 < self.status < 200 or self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                return self._agree_on_length()
            self.headers = None  # type: ignore[assignment]  # so that Python begins anew
        raise BadStatusLine("interim answers without end")

    def _agree_on_length(self) -> None:
        """Leave one Content-Length at most. Several that contradict one another become a text that is no number."""
        said = self.headers.get_all("content-length", [])
        lengths = {length.strip() for value in said for length in value.split(",")} - {""}
        del self.headers["content-length"]
        if not lengths or "chunked" in self.headers.get("transfer-encoding", "").lower():
            # The chunks say where the body ends.
            return
        self.headers["content-length"] = " or ".join(sorted(lengths))
        if self.length != 0:
            self.length = _number(self.headers["content-length"])


def _number(text: str) -> int | None:
    """The number; None if the text is none. One too large for 18 digits becomes the largest."""
    if not re.fullmatch("[0-9]+", text):
        return None
    return int(text) if len(text) <= 18 else sys.maxsize


def length_of(response: requests.Response) -> int | None:
    """Bytes of the body by its Content-Length; None if there is none, or if the body comes in chunks.

    Raises:
        ValueError: the header is no length, or several.
    """
    text = response.headers.get("content-length")
    if text is None:
        return None
    length = _number(text)
    if length is None:
        raise ValueError("no length, or several")
    return length


def is_temporary(status: int) -> bool:
    return status in TEMPORARY_STATUSES or status >= 500


def host_of(response: requests.Response) -> str:
    """The answering host, as messages may show it."""
    return urlsplit(response.url).hostname or ""


def location_of(response: requests.Response) -> str:
    """Where a redirect leads: a URL, or one relative to the redirect's own."""
    location = response.headers["location"]
    # Servers send UTF-8, though headers are Latin-1, by which http.client has decoded them.
    raw = location.encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return quote(raw, safe=string.punctuation)


def retry_after_s(header: str, at_most_s: float) -> float | None:
    """Seconds that a Retry-After header asks for, by a number or a date; None if it holds neither."""
    text = header.strip()
    if re.fullmatch(r"\d{1,18}", text):
        seconds = float(text)
    else:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), at_most_s)
