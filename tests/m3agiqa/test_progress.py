from __future__ import annotations

from m3agiqa.progress import tracked


def test_a_share_is_told_when_the_loop_is_done_with_an_item() -> None:
    events: list[object] = []

    for item in tracked("abcd", 4, events.append):
        events.append(item)

    assert events == ["a", 0.25, "b", 0.5, "c", 0.75, "d", 1.0]


def test_nothing_to_do_tells_nothing() -> None:
    shares: list[float] = []
    assert list(tracked([], 0, shares.append)) == []
    assert shares == []
