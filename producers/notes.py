"""What commands tell on stderr; data goes to stdout."""

from __future__ import annotations

from functools import cache

from rich.console import Console


@cache
def stderr() -> Console:
    """The console for messages."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def note(text: str) -> None:
    stderr().print(text, markup=False)
