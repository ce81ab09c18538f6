"""How far a piece of work is: a function that works long calls a `Progress`, and its caller may show it as a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

#: Called with the share of the work that is done, 0 to 1.
Progress = Callable[[float], None]


def unseen(share: float) -> None:
    """The progress that nobody wants to see."""


def by_tenths(say: Callable[[int], None]) -> Progress:
    """A progress that calls `say` with the percentage at each further tenth of the work."""
    said = 0

    def progress(share: float) -> None:
        nonlocal said
        if int(10 * share) > said:
            said = int(10 * share)
            say(10 * said)

    return progress


def tracked(items: Iterable[Item], total: int, progress: Progress) -> Iterator[Item]:
    """Yield the items, of which there are `total`; `progress` is called whenever the loop is done with one."""
    for done, item in enumerate(items, 1):
        yield item
        progress(done / total)
