from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from m3agiqa.errors import Busy
from worker.shares import FIRST_LOOK_S, MOST_SERVERS, PATIENCE_S, Share, Shares
from worker.web import sites
from worker.web.sites import endpoint_at, site_of


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Exchanges that go on until the test is over, or until it closes this."""
    with ExitStack() as stack:
        yield stack


def serve(shares: Shares, clock: Clock, site: str, seconds: float, times: int = 1) -> None:
    """Exchanges with `site` that take `seconds` each, one after the other."""
    for _ in range(times):
        with shares.take(site) as share:
            clock.wait(seconds)
            share.go_on()


def begin(shares: Shares, held: ExitStack, *sites: str) -> list[Share]:
    """Exchanges that begin together; of those that are turned away, nothing."""
    begun = []
    for site in sites:
        try:
            begun.append(held.enter_context(shares.take(site)))
        except Busy:
            continue
    return begun


@contextmanager
def turned_away() -> Iterator[list[Busy]]:
    found: list[Busy] = []
    with pytest.raises(Busy) as busy:
        yield found
    found.append(busy.value)


# --- who has how many --------------------------------------------------------------------------------------------


def test_a_quick_server_may_have_every_thread(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    serve(shares, clock, "ours", 0.05)
    assert len(begin(shares, held, *["ours"] * 24)) == 24


def test_a_limit_for_each_server_holds_for_quick_ones_too(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, per_server=8, clock=clock)
    serve(shares, clock, "ours", 0.05)
    assert len(begin(shares, held, *["ours"] * 24)) == 8


def test_an_unknown_server_ramps_up_with_its_first_answer(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    # given one that nobody knows: a quarter
    first = ExitStack()
    assert len(begin(shares, first, *["ours"] * 24)) == 6
    # when it answered, then it may have all
    clock.wait(0.05)
    first.close()
    assert len(begin(shares, held, *["ours"] * 24)) == 24


def test_unknown_servers_together_hold_half_of_the_threads(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    assert len(begin(shares, held, *(f"site-{number}" for number in range(100)))) == 12


def test_slow_servers_together_hold_a_quarter_and_one_half_of_it(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    for number in range(10):
        serve(shares, clock, f"slow-{number}", 5)
    assert len(begin(shares, held, *["slow-0"] * 24)) == 3
    assert len(begin(shares, held, *(f"slow-{number}" for number in range(10)))) == 3
    # and the others have the rest
    serve(shares, clock, "ours", 0.05)
    assert len(begin(shares, held, *["ours"] * 18)) == 18


def test_a_larger_share_lets_slow_servers_have_more_and_unknown_ones_no_less(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, slow_share=1, clock=clock)
    serve(shares, clock, "ours", 1.5)
    assert len(begin(shares, held, *["ours"] * 24)) == 12
    assert len(begin(shares, held, *(f"site-{number}" for number in range(24)))) == 12


def test_what_cannot_be_cut_off_leaves_a_quarter_of_the_threads(clock: Clock, held: ExitStack) -> None:
    shares, taken = Shares(24, clock=clock), 0
    for _ in range(2):
        for _ in range(24):
            try:
                held.enter_context(shares.take("s3://ours", may_give_way=False))
                taken += 1
            except Busy:
                continue
        # when it is known as quick
        clock.wait(0.05)
        held.close()
    assert taken == 6 + 18


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_with_few_threads_everybody_may_have_one(threads: int, clock: Clock) -> None:
    # given a slow and a quick server, of which each had a thread while it was unknown, and again when it was known
    shares = Shares(threads, clock=clock)
    serve(shares, clock, "slow", 5, times=2)
    serve(shares, clock, "ours", 0.05, times=2)
    # then each may have one, and so may another that nobody knows
    for site in ("slow", "ours", "new"):
        with ExitStack() as held:
            assert len(begin(shares, held, site)) == 1


def meet(share: Share, endpoint: str) -> bool:
    try:
        share.meet(endpoint)
    except Busy:
        return False
    return True


def test_names_of_one_endpoint_share_what_it_may_have(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    unknown = begin(shares, held, *(f"name-{number}" for number in range(12)))
    assert [meet(share, "endpoint") for share in unknown] == [True] * 6 + [False] * 6
    # and when they turn out to be slow
    clock.wait(PATIENCE_S)
    kept = 0
    for share in unknown[:6]:
        with suppress(Busy):
            share.go_on()
            kept += 1
    assert kept == 3


def test_a_new_name_need_not_wait_for_others_at_its_endpoint(clock: Clock, held: ExitStack) -> None:
    # given an endpoint that has as many exchanges with unknown names as it may
    shares = Shares(24, clock=clock)
    hanging = begin(shares, held, *(f"name-{number}" for number in range(6)))
    assert all(meet(share, "endpoint") for share in hanging)
    # when they have been looked at
    clock.wait(FIRST_LOOK_S)
    [new] = begin(shares, held, "new")
    # then the one that was looked at longest gives way
    assert meet(new, "endpoint")
    with turned_away():
        hanging[0].go_on()


def test_a_site_that_is_known_is_not_judged_by_its_endpoint(clock: Clock, held: ExitStack) -> None:
    # given an endpoint that slow sites share with a quick one
    shares = Shares(24, clock=clock)
    serve(shares, clock, "ours", 0.05)
    with shares.take("slow") as share:
        share.meet("endpoint")
        clock.wait(5)
        share.go_on()
    # then the quick one may have as many threads as ever
    assert all(meet(share, "endpoint") for share in begin(shares, held, *["ours"] * 20))


# --- for how long ------------------------------------------------------------------------------------------------


def test_beyond_a_second_an_exchange_needs_a_permit(clock: Clock, held: ExitStack) -> None:
    # given a server known as quick that suddenly hangs
    shares = Shares(24, clock=clock)
    serve(shares, clock, "ours", 0.05)
    begun = begin(shares, held, *["ours"] * 24)
    assert [share.go_on() for share in begun] == [PATIENCE_S] * 24
    # when their time is over
    clock.wait(PATIENCE_S)
    going, ended = [], 0
    for share in begun:
        try:
            assert share.go_on() > 3600
            going.append(share)
        except Busy:
            ended += 1
    # then as many go on as one server may keep
    assert (len(going), ended) == (3, 21)
    # and it is slow from now on
    held.close()
    assert len(begin(shares, held, *["ours"] * 24)) == 3


def test_a_server_that_was_cut_off_is_slow(clock: Clock, held: ExitStack) -> None:
    shares = Shares(4, clock=clock)
    serve(shares, clock, "drip", 5)
    begin(shares, held, "drip")
    with turned_away(), shares.take("unknown") as share:
        clock.wait(PATIENCE_S)
        share.go_on()
    # It would find room if it were unknown still.
    with pytest.raises(Busy, match="slow and unknown servers"):
        held.enter_context(shares.take("unknown"))


def test_a_slow_server_that_recovers_is_quick_again(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    serve(shares, clock, "ours", 20)
    serve(shares, clock, "ours", 0.05, times=12)
    assert len(begin(shares, held, *["ours"] * 24)) == 24


def test_one_slow_exchange_makes_no_slow_server(clock: Clock, held: ExitStack) -> None:
    shares = Shares(24, clock=clock)
    serve(shares, clock, "ours", 0.05, times=3)
    serve(shares, clock, "ours", 2)
    assert len(begin(shares, held, *["ours"] * 24)) == 24


def test_a_new_server_need_not_wait_for_those_that_came_before(clock: Clock, held: ExitStack) -> None:
    # given more unknown servers than there is room for, all of which hang
    shares = Shares(24, clock=clock)
    hanging = begin(shares, held, *(f"hang-{number}" for number in range(1000)))
    assert len(hanging) == 12
    with turned_away():
        begin_one(shares, held, "ours")
    # when the first of them have been looked at
    clock.wait(FIRST_LOOK_S)
    begin_one(shares, held, "ours")
    # then the one that was looked at longest had to go
    with turned_away():
        hanging[0].go_on()
    assert [share.go_on() for share in hanging[1:]] == [pytest.approx(0.1)] * 11


def begin_one(shares: Shares, held: ExitStack, site: str) -> Share:
    return held.enter_context(shares.take(site))


def test_who_gave_way_is_looked_at_for_longer_when_its_turn_comes(clock: Clock) -> None:
    shares = Shares(4, clock=clock)
    looked_s = []
    for _ in range(3):
        with ExitStack() as held:
            share = begin_one(shares, held, "half-a-second")
            begin(shares, held, "hang")
            began = clock.now
            # when others want in all the time
            for number in range(100):
                clock.wait(1 / 16)
                begin(shares, held, f"other-{began}-{number}")
                try:
                    share.go_on()
                except Busy:
                    break
            looked_s.append(clock.now - began)
    assert looked_s == [FIRST_LOOK_S, 2 * FIRST_LOOK_S, 4 * FIRST_LOOK_S]


def test_who_cannot_be_interrupted_gives_way_to_nobody(clock: Clock, held: ExitStack) -> None:
    shares = Shares(4, clock=clock)
    share = held.enter_context(shares.take("s3://bucket", may_give_way=False))
    begin_one(shares, held, "other")
    clock.wait(0.5)
    assert len(begin(shares, held, "a")) == 1
    assert len(begin(shares, held, "b")) == 0
    assert share.go_on() > 0


def test_who_has_given_way_meets_nobody(clock: Clock, held: ExitStack) -> None:
    shares = Shares(2, clock=clock)
    share = begin_one(shares, held, "slow-resolver")
    clock.wait(FIRST_LOOK_S)
    begin_one(shares, held, "other")
    with turned_away():
        share.meet("endpoint")
    # and nothing of it is held
    held.close()
    assert len(begin(shares, held, "a")) == 1


# --- what comes of it --------------------------------------------------------------------------------------------


def test_those_turned_away_come_back_the_later_the_more_they_are_and_the_longer_it_takes(
    clock: Clock, held: ExitStack
) -> None:
    # given a server that takes ten seconds at a time
    shares = Shares(8, longest_delay_s=300, clock=clock)
    serve(shares, clock, "slow", 10, times=50)
    begin_one(shares, held, "slow")
    # when thousands want in
    delays_s = []
    for _ in range(1000):
        with turned_away() as busy:
            begin_one(shares, held, "slow")
        delays_s.append(busy[0].delay_s)
    # then they spread over the time that it takes to serve them
    assert 9 < delays_s[0] < 13
    assert delays_s[10] > 100
    assert max(delays_s) == 300
    assert min(delays_s) >= 0.1


def test_a_new_server_without_room_comes_back_soon_and_one_that_waits_for_long_later(
    clock: Clock, held: ExitStack
) -> None:
    shares = Shares(2, longest_delay_s=30, clock=clock)
    held.enter_context(shares.take("s3://bucket", may_give_way=False))

    def delays_s() -> list[float]:
        found = []
        for _ in range(20):
            with turned_away() as busy:
                begin_one(shares, held, "other")
            found.append(busy[0].delay_s)
        return found

    assert all(FIRST_LOOK_S <= delay_s <= 1 for delay_s in delays_s())
    clock.wait(10)
    assert all(2.5 <= delay_s <= 10 for delay_s in delays_s())
    clock.wait(1000)
    assert all(delay_s <= 30 for delay_s in delays_s())


def test_an_exchange_that_was_turned_away_says_nothing_of_its_site(clock: Clock, held: ExitStack) -> None:
    shares = Shares(8, clock=clock)
    # given a name that could not even connect, as others hold all that its endpoint may have
    for name in ("one", "two"):
        begin_one(shares, held, name).meet("endpoint")
    with turned_away(), shares.take("name") as share:
        share.meet("endpoint")
    # then it is no quick one for that
    assert len(begin(shares, held, *["name"] * 8)) == 2


def test_only_so_many_servers_are_remembered_and_those_in_use_are(clock: Clock, held: ExitStack) -> None:
    shares = Shares(8, clock=clock)
    begin(shares, held, "in-use", "in-use")
    for number in range(2 * MOST_SERVERS):
        serve(shares, clock, f"site-{number}", 0.01)
    assert len(shares._servers) == MOST_SERVERS
    # An unknown site may have two of eight threads, and has them.
    with turned_away():
        begin_one(shares, held, "in-use")


def test_everything_is_given_back_whatever_happens(clock: Clock) -> None:
    shares = Shares(8, clock=clock)

    def work(seed: int) -> None:
        for number in range(300):
            try:
                with shares.take(f"site-{(seed * number) % 11}") as share:
                    clock.wait(0.01 * (number % 7))
                    share.meet(f"endpoint-{number % 3}")
                    share.go_on()
                    if number % 5 == 0:
                        raise OSError("broke off")
            except (Busy, OSError):
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servers = [*shares._servers.values(), shares._all]
    assert {limit.held for server in servers for limit in server._limits} == {0}
    assert shares._looking == {}


# --- who is who --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("images.customer.com", "customer.com"),
        ("customer.com", "customer.com"),
        ("customer.com.", "customer.com"),
        ("a.b.customer.co.uk", "customer.co.uk"),
        # customers of a provider, each with a name of his own
        ("one.s3.amazonaws.com", "one.s3.amazonaws.com"),
        ("two.s3.eu-west-1.amazonaws.com", "two.s3.eu-west-1.amazonaws.com"),
        ("me.github.io", "me.github.io"),
        # without a registrable domain
        ("s3.eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com:443"),
        ("localhost", "localhost:443"),
        ("images.default.svc.cluster.local", "images.default.svc.cluster.local:443"),
        ("", ":443"),
        # addresses
        ("93.184.215.14", "93.184.215.14/32:443"),
        ("[2606:2800:21f:cb07:6820:80da:af6b:8b2c]", "2606:2800:21f:cb07::/64:443"),
    ],
)
def test_a_site_is_what_somebody_registered(host: str, site: str) -> None:
    assert site_of(host, 443) == site


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2606:2800:21f:cb07::1", "2606:2800:21f:cb07:ffff:ffff:ffff:ffff"),
        ("::ffff:93.184.215.14", "93.184.215.14"),
        ("64:ff9b::5db8:d70e", "93.184.215.14"),
        ("64:ff9b:1::5db8:d70e", "93.184.215.14"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_addresses_of_one_endpoint(one: str, other: str) -> None:
    assert endpoint_at(one, 443) == endpoint_at(other, 443)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2606:2800:21f:cb07::1", "2606:2800:21f:cb08::1"),
        ("93.184.215.14", "93.184.215.15"),
        ("64:ff9b::5db8:d70e", "64:ff9b::5db8:d70f"),
        ("64:ff9b:1::5db8:d70e", "64:ff9b:1::5db8:d70f"),
    ],
)
def test_addresses_of_two_endpoints(one: str, other: str) -> None:
    assert endpoint_at(one, 443) != endpoint_at(other, 443)


def test_the_list_of_suffixes_comes_with_its_package(
    connects: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Nothing is downloaded, and nothing cached."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TLDEXTRACT_CACHE", str(tmp_path / "cache"))
    suffixes: Any = sites._suffixes
    monkeypatch.setattr(suffixes, "_extractor", None)
    assert site_of("a.customer.co.uk", 443) == "customer.co.uk"
    assert connects.tried == []
    assert list(tmp_path.iterdir()) == []
