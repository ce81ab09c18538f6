"""Bars on stderr that show how far a command is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar

from m3agiqa.progress import Progress, unseen


@contextmanager
def shown(what: str, console: Console | None = None) -> Iterator[Progress]:
    """A progress that is shown as a bar, which goes away with the last share; none where nobody would see it.

    Args:
        what: names the work beside the bar.
        console: where lines are printed meanwhile; default: a new one on stderr.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield unseen
        return
    bar = Bar(console=console, transient=True)
    task = bar.add_task(what, total=1.0)

    def show(share: float) -> None:
        bar.start()  # not before the first share: a download shows a bar of its own
        bar.update(task, completed=share)
        if share >= 1:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()


def counting(console: Console | None = None) -> Bar:
    """A bar that counts items, and stays when the command has ended."""
    return Bar(*Bar.get_default_columns(), MofNCompleteColumn(), console=console or Console(stderr=True))
