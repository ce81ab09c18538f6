"""Finds the primary by asking Redis Sentinels, each time that a connection is made."""

from __future__ import annotations

from copy import copy
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from m3agiqa.queue.address import Address

#: Seconds in which a Sentinel must take a connection, and answer.
_TIMEOUT_S = 2.0


def primary(address: Address, **options: Any) -> Redis:
    """A client of the primary that the Sentinels at `address` name; `options` are redis-py's."""
    assert address.sentinels is not None
    asking = _Sentinels(address.hosts, sentinel_kwargs=sentinel_options(address))  # type: ignore[no-untyped-call]
    login = {"db": address.db, "username": address.username or None, "password": address.password or None}
    connection_class = _TLSConnection if address.scheme == "rediss" else _Connection
    client: Redis = asking.master_for(  # type: ignore[no-untyped-call]
        address.sentinels.master, connection_class=connection_class, **address.tls, **login, **options
    )
    return client


def sentinel_options(address: Address) -> dict[str, Any]:
    """How redis-py connects to the Sentinels. One that is away costs a try and no more, as there are others to ask."""
    assert address.sentinels is not None
    return {
        "username": address.sentinels.username or None,
        "password": address.sentinels.password or None,
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "ssl": address.scheme == "rediss",
        **address.tls,
    }


class _Sentinels(Sentinel):
    """Each thread asks by a list of its own: redis-py 8.1 reorders the list as it goes, and loses some if threads mix.
    One after the other would add up the seconds that a silent Sentinel takes.
    """

    def discover_master(self, service_name: str) -> Any:
        asking = copy(self)
        asking.sentinels = list(self.sentinels)
        found = Sentinel.discover_master(asking, service_name)  # type: ignore[no-untyped-call]
        # The one that answered comes first from now on.
        self.sentinels = asking.sentinels
        return found


class _Connection(SentinelManagedConnection):
    """Asks for the primary before every try: redis-py 8.1 tries a lost connection again where it was, for as long as it
    tries at all.
    """

    def _connect(self) -> Any:
        self.host, self.port = self.connection_pool.get_master_address()
        return super()._connect()  # type: ignore[no-untyped-call]


class _TLSConnection(_Connection, SentinelManagedSSLConnection):
    pass
