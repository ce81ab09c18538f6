from __future__ import annotations

from worker.ops.seldom import Seldom


def test_each_thing_is_logged_once_in_its_time() -> None:
    now = 100.0
    seldom = Seldom(60.0, clock=lambda: now)
    assert [seldom.now(what) for what in ("a", "a", "b", "a", "b")] == [True, False, True, False, False]
    now = 159.9
    assert not seldom.now("a")
    now = 160.0
    assert seldom.now("a")
    assert not seldom.now("a")
