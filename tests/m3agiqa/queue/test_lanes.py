"""No tenant's backlog keeps another from its turn, and what waits behind is neither lost nor copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from m3agiqa.client import Client
from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import NotOwed, QueueFull
from m3agiqa.queue import inbox, keys, overview
from m3agiqa.queue.ledger import Ledger
from tests.m3agiqa.queue.support import LIST, begin, owe, pass_time, request, taken, traces, waiting
from tests.support_verdicts import verdict

#: Names of a tenant on a list at most: `MOST_IN_FRONT` in the scripts.
MOST = 16


def of(tenant: str | None, names: range) -> list[ScoreRequest]:
    return [request(f"{tenant or 'none'}-{number}").model_copy(update={"tenant": tenant}) for number in names]


def names_of(tenant: str | None, names: range) -> list[str]:
    return [one.name for one in of(tenant, names)]


def turns(ledger: Ledger, redis: Redis) -> Iterator[str]:
    """Names in the order in which workers begin them, and answer."""
    while redis.llen(LIST):
        name = taken(redis)
        claim = begin(ledger, name)
        yield name
        assert claim.publish(verdict(claim.request.request_id))


@pytest.mark.parametrize("tenant", ["acme", None])
def test_a_backlog_of_one_keeps_no_other_from_its_turn(tenant: str | None, ledger: Ledger, redis: Redis) -> None:
    # given a thousand of one tenant, or of none, and ten of another behind
    owe(ledger, redis, *of(tenant, range(1000)))
    in_flight = [begin(ledger, taken(redis)) for _ in range(32)]
    owe(ledger, redis, *of("umbra", range(10)))
    # when workers go on
    order = list(turns(ledger, redis))
    # then all ten come behind no more of the thousand than lay on the list, and each tenant's in its order
    assert set(names_of("umbra", range(10))) <= set(order[: MOST + 10])
    assert [name for name in order if "umbra" in name] == names_of("umbra", range(10))
    assert [name for name in order if "umbra" not in name] == names_of(tenant, range(len(in_flight), 1000))
    # and nothing is left of lanes
    assert traces(redis, "lane", "front") == []


def test_tenants_with_backlogs_take_turns(ledger: Ledger, redis: Redis) -> None:
    for tenant in ("a", "b", "c"):
        owe(ledger, redis, *of(tenant, range(100)))
    order = list(turns(ledger, redis))
    for tenant in ("a", "b", "c"):
        # of any hundred turns each has a third, give or take those in front at the beginning
        shares = [sum(name.startswith(tenant) for name in order[at : at + 90]) for at in range(0, 200, 10)]
        assert min(shares) >= 30 - MOST
    assert len(order) == len(set(order)) == 300


def test_urgent_requests_have_lanes_of_their_own(ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(30)))
    client.submit(image_url="https://host/a.png", prompt="", priority=0, request_id="urgent")
    ledger.admit(0)
    assert redis.lrange("score", 0, -1) == ["urgent"]


def test_who_looks_sees_lists_and_lanes_alike(ledger: Ledger, client: Client, redis: Redis, redis_url: str) -> None:
    # given three tenants, two with backlogs
    owe(ledger, redis, *of("acme", range(50)), *of("umbra", range(20)), *of(None, range(5)))
    assert redis.hgetall(keys.lanes(6)) == {"acme": "34", "umbra": "4"}
    # when somebody looks, he sees what waits, and for how long the oldest does
    looked = client.overview()
    assert looked.waiting[6] == 75
    redis.hset(keys.request("acme/acme-20"), "score.lane", f"{looked.taken_at - 500:.6f}")
    redis.hset(keys.request("acme/acme-16"), "score.lane", f"{looked.taken_at - 700:.6f}")
    redis.hset(keys.request("acme/acme-16"), "score.queued", f"{looked.taken_at - 700:.6f}")
    assert client.overview().oldest_age_s[6] >= 700
    ledger.sweep()
    assert float(redis.get(keys.OLDEST)) >= 700
    # and a producer is refused by the number of all
    with Client(redis_url, max_queued=75) as full, pytest.raises(QueueFull):
        full.submit(image_url="https://host/a.png", prompt="")
    # and is told what is before a request: all on the list, its own in the lane, and as many of the other lane
    places = {name: one.position for name, one in client.status_many(["acme/acme-0", "acme/acme-25"]).items()}
    assert places == {"acme/acme-0": 1, "acme/acme-25": 16 + 16 + 5 + 10 + 4}


def test_the_age_of_a_request_that_comes_to_the_front_is_not_forgotten(
    ledger: Ledger, client: Client, redis: Redis
) -> None:
    # given one in a lane for long
    owe(ledger, redis, *of("acme", range(MOST + 1)))
    last = keys.request(f"acme/acme-{MOST}")
    redis.hset(last, mapping=dict.fromkeys(("score.lane", "score.queued"), f"{client.overview().taken_at - 900:.6f}"))
    # when it comes to the front, and those before it are begun
    for _ in range(MOST):
        begin(ledger, taken(redis))
    # then it has waited for as long as before, until it is begun
    assert client.overview().oldest_age_s[6] >= 900
    assert float(redis.hget(last, "score.queued")) > float(redis.hget(last, "score.lane"))
    begin(ledger, taken(redis)).postpone(0, why="c")
    ledger.sweep()
    assert client.overview().oldest_age_s[6] < 900


def test_what_is_due_again_waits_behind_its_tenants_others(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(20)))
    begin(ledger, taken(redis)).postpone(0, why="c")
    ledger.sweep()
    assert waiting(redis, 6, "acme")[-1] == "acme/acme-0"
    assert redis.llen(LIST) == MOST


@pytest.mark.parametrize("laned", [False, True])
def test_who_is_taken_back_makes_room(laned: bool, ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(20)))
    gone = "acme/acme-17" if laned else "acme/acme-5"
    assert client.cancel(gone)
    left = [name for name in names_of("acme", range(20)) if name != gone]
    assert waiting(redis, 6, "acme") == left
    assert redis.llen(LIST) == MOST
    assert redis.hgetall(keys.lanes(6)) == {"acme": "3"}
    assert set(client.purge()) == set(left)
    assert traces(redis, "m3agiqa:lane", "m3agiqa:front") == []


@pytest.mark.parametrize("laned", [False, True])
def test_who_is_erased_makes_room_and_leaves_nothing(laned: bool, ledger: Ledger, client: Client, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(20)))
    gone = "acme-17" if laned else "acme-5"
    assert client.erase(f"acme/{gone}").request
    assert traces(redis, gone) == []
    assert redis.llen(LIST) == MOST
    assert len(waiting(redis, 6, "acme")) == 19


def test_one_that_is_answered_while_its_name_waits_makes_room(ledger: Ledger, redis: Redis) -> None:
    # given a worker that was taken for dead, and its request on the list again
    owe(ledger, redis, *of("acme", range(20)))
    late = begin(ledger, taken(redis))
    pass_time(redis, 2000, "acme/acme-0")
    ledger.sweep()
    assert redis.scard(keys.front(6, "acme")) == MOST + 1
    # when it publishes all the same
    assert late.publish(verdict("acme-0"))
    # then its place is another's once the front has room
    assert redis.scard(keys.front(6, "acme")) == MOST
    assert taken(redis) == "acme/acme-0"
    with pytest.raises(NotOwed):
        begin(ledger, "acme/acme-0")
    assert list(turns(ledger, redis)) == names_of("acme", range(1, 20))


def test_one_that_is_answered_in_its_lane_is_passed_over(ledger: Ledger, redis: Redis) -> None:
    # given a name that a stranger wrote on the list, of a request that waits in its lane
    owe(ledger, redis, *of("acme", range(20)))
    redis.rpush(LIST, "acme/acme-18")
    # when it is begun and scored before its turn
    assert begin(ledger, taken(redis)).publish(verdict("acme-18"))
    # then the others come, each once
    order = list(turns(ledger, redis))
    assert order == [name for name in names_of("acme", range(20)) if name != "acme/acme-18"]


@pytest.mark.parametrize("deleted", [[LIST], ["front"], ["lane"], ["lanes"], [LIST, "front"], [LIST, "front", "lane"]])
def test_a_queue_whose_keys_were_deleted_heals(deleted: list[str], ledger: Ledger, redis: Redis) -> None:
    # given a backlog of which somebody deleted keys
    owe(ledger, redis, *of("acme", range(40)))
    keys_by_name = {"front": keys.front(6, "acme"), "lane": keys.lane(6, "acme"), "lanes": keys.lanes(6)}
    redis.delete(*(keys_by_name.get(name, name) for name in deleted))
    # when workers sweep, and take what comes
    order = []
    for _ in range(10):
        pass_time(redis, 700)
        ledger.sweep()
        order += list(turns(ledger, redis))
    # then each comes once
    assert sorted(order) == sorted(names_of("acme", range(40)))
    assert traces(redis, "m3agiqa:lane", "m3agiqa:front") == []


def test_workers_without_lanes_may_take_the_names(ledger: Ledger, redis: Redis) -> None:
    # given names at the front that a worker of an earlier version began and scored, so that the front knows nothing
    owe(ledger, redis, *of("acme", range(40)))
    for name in names_of("acme", range(MOST)):
        redis.rpop(LIST)
        redis.hset(keys.request(name), "score.queued", "0")
    # when a worker sweeps, the next ones come
    ledger.sweep()
    assert waiting(redis, 6, "acme") == names_of("acme", range(MOST, 40))
    assert redis.llen(LIST) == MOST


def test_a_name_in_a_lane_is_not_taken_for_lost(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(300)))
    for _ in range(8):
        pass_time(redis, 10_000)
        while ledger.sweep() == 100:
            pass
    assert waiting(redis, 6, "acme") == names_of("acme", range(300))


def test_one_that_was_answered_before_its_turn_does_not_make_its_lane_seem_lost(ledger: Ledger, redis: Redis) -> None:
    # given the next one of a lane, which was begun before its turn
    owe(ledger, redis, *of("acme", range(40)))
    begin(ledger, f"acme/acme-{MOST}")
    pass_time(redis, 100, *names_of("acme", range(40)))
    # when workers look whether those behind it are lost
    ledger.sweep()
    # then they are not
    assert redis.llen(LIST) == MOST


@pytest.mark.parametrize("place", [keys.lane, keys.front])
def test_keys_of_another_kind_cost_fairness_and_nothing_else(
    place: object, ledger: Ledger, client: Client, redis: Redis
) -> None:
    assert callable(place)
    redis.set(place(6, "acme"), "x")
    redis.set(keys.lanes(6), "x")
    owe(ledger, redis, *of("acme", range(20)))
    ledger.sweep()
    assert client.cancel("acme/acme-3")
    assert client.erase("acme/acme-4").request
    assert len(list(turns(ledger, redis))) == 18


def test_lanes_of_a_namespace_are_its_own(redis: Redis, redis_url: str) -> None:
    ours = Ledger(f"{redis_url}?namespace=staging", lease_s=1000)
    try:
        inbox.push(redis, of("acme", range(20)), ours.connection.key)
        while ours.admit(6):
            pass
        assert redis.llen("staging:m3agiqa:lane:6:acme") == 4
        assert overview.read(ours.connection).waiting[6] == 20
        assert [key for key in redis.scan_iter(count=1000) if not key.startswith("staging:")] == []
    finally:
        ours.close()


def test_times_grow_along_a_list_whatever_comes_from_lanes(ledger: Ledger, redis: Redis) -> None:
    owe(ledger, redis, *of("acme", range(60)), *of("umbra", range(60)))
    for _ in range(25):
        begin(ledger, taken(redis))
    times = [float(redis.hget(keys.request(name), "score.queued")) for name in reversed(redis.lrange(LIST, 0, -1))]
    assert times == sorted(times)
    assert len(times) == 2 * MOST
