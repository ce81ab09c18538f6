from __future__ import annotations

import pytest

from worker.courier import Slots, receiver


def test_as_many_as_the_limit_are_let_in_and_each_place_has_its_own() -> None:
    slots = Slots(2)
    assert [slots.enter("slow"), slots.enter("slow"), slots.enter("other")] == [0, 0, 0]
    assert slots.enter("slow") > 0
    slots.leave("slow", 0.1)
    assert slots.enter("slow") == 0


def test_those_turned_away_come_back_the_later_the_more_they_are_and_the_longer_it_takes() -> None:
    # given a place that takes ten seconds at a time
    slots = Slots(1)
    for _ in range(50):
        slots.enter("slow")
        slots.leave("slow", 10)
    slots.enter("slow")
    # when thousands want in
    waits = [slots.enter("slow") for _ in range(1000)]
    # then they spread over the time that it takes to serve them
    assert 9 < waits[0] < 13
    assert waits[10] > 100
    assert max(waits) <= 300
    assert min(waits) >= 0.1


def test_a_quick_place_is_forgotten_once_nobody_is_there() -> None:
    slots = Slots(1)
    for number in range(1000):
        slots.enter(str(number))
        slots.leave(str(number), 0.1)
    assert len(slots._places) == 0


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://Hooks.example/path", "hooks.example:443"),
        ("https://hooks.example?tenant=1", "hooks.example:443"),
        ("https://hooks.example#x", "hooks.example:443"),
        ("https://hooks.example.:443", "hooks.example:443"),
        ("https://hooks.example:8443/a?b", "hooks.example:8443"),
        ("https://Bücher.example/", "xn--bcher-kva.example:443"),
        ("https://user@hooks.example/", "hooks.example:443"),
        ("s3://bucket/prefix", "bucket"),
        ("http://[::1", "[::1"),
        ("no url", ""),
    ],
)
def test_one_receiver_is_one_place_whatever_it_is_asked(url: str, place: str) -> None:
    assert receiver(url) == place
