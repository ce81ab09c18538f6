from __future__ import annotations

from m3agiqa.progress import by_tenths, tracked


def test_a_share_is_told_when_the_loop_is_done_with_an_item() -> None:
    events: list[object] = []

    for item in tracked("abcd", 4, events.append):
        events.append(item)

    assert events == ["a", 0.25, "b", 0.5, "c", 0.75, "d", 1.0]


def test_each_tenth_is_said_once() -> None:
    said: list[int] = []
    progress = by_tenths(said.append)
    for share in (0.0, 0.05, 0.1, 0.15, 0.55, 0.56, 1.0):
        progress(share)
    assert said == [10, 50, 100]


def test_nothing_to_do_tells_nothing() -> None:
    shares: list[float] = []
    assert list(tracked([], 0, shares.append)) == []
    assert shares == []
