from __future__ import annotations

import threading

import pytest

from m3agiqa.pools import threads


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_when_the_block_fails_nothing_more_is_begun(error: type[BaseException]) -> None:
    # Given one thread that is at work on the first of many things
    begun, release, done = threading.Event(), threading.Event(), []

    def work(number: int) -> None:
        done.append(number)
        begun.set()
        release.wait(60)

    # When the block fails: a signal waits for nobody, another error for what is begun
    if error is ValueError:
        release.set()

    def block() -> None:
        with threads(1) as pool:
            for number in range(1000):
                pool.submit(work, number)
            begun.wait(60)
            raise error

    with pytest.raises(error):
        block()

    # Then the rest is left
    release.set()
    assert len(done) < 1000


def test_a_block_that_ends_well_waits_for_all() -> None:
    with threads(4) as pool:
        found = pool.map(str, range(100))
    assert list(found) == [str(number) for number in range(100)]
