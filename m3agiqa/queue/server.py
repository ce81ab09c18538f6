"""Checks what answers at a Redis URL, and whether it can hold the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from m3agiqa.errors import ConfigError
from m3agiqa.queue.address import Address
from m3agiqa.queue.connection import IN_CLUSTER, SILENCE_S, connect, translated

#: Major version of the oldest Redis whose scripts may say that they run although memory is full.
_OLDEST = 7
#: The maxmemory-policy by which Redis refuses writes when its memory is full, and drops nothing.
_KEEPING = "noeviction"


@dataclass(frozen=True)
class Server:
    """What answers at a Redis URL."""

    #: Product and version, such as "Valkey 9.0.1".
    name: str
    #: Why it cannot hold the queue; None if it can.
    unfit: str | None = None
    #: What its operator should change.
    warnings: tuple[str, ...] = ()


def look(url: str) -> Server:
    """Ask Redis for its product, version and settings. Answers that its user may not see count as good ones.

    Raises:
        ConfigError: not a Redis URL.
        QueueUnavailable: no answer, a wrong password, or not a Redis.
    """
    with connect(url, patience_s=0) as redis, translated(url):
        told = _info(redis)
        return Server("Redis") if told is None else _server(told, saves=_saves(redis, told))


def fit(url: str, *, silence_s: float = SILENCE_S) -> None:
    """Refuse a server that cannot hold the queue.

    Raises:
        ConfigError: not a Redis URL, or a server that cannot hold the queue.
        QueueUnavailable: as `look` raises it.
    """
    with connect(url, patience_s=0, silence_s=silence_s) as redis, translated(url):
        told = _info(redis)
    if told is not None and (unfit := _server(told, saves=True).unfit):
        raise ConfigError(f"Redis at {Address.parse(url).endpoint} cannot hold the queue: {unfit}")


def _info(redis: Redis) -> dict[str, Any] | None:
    redis.ping()
    try:
        return dict(redis.info())
    except NoPermissionError:
        return None


def _server(told: dict[str, Any], *, saves: bool) -> Server:
    names = {"dragonfly_version": "Dragonfly", "valkey_version": "Valkey", "redis_version": "Redis"}
    number, product = next(((str(told[key]), name) for key, name in names.items() if key in told), ("?", "Redis"))
    warnings = []
    if (policy := told.get("maxmemory_policy", _KEEPING)) != _KEEPING:
        warnings.append(f"maxmemory-policy is {policy}, so it drops requests when full; set it to {_KEEPING}")
    if not saves:
        warnings.append("it saves nothing to its disk, so a restart loses every request; set appendonly to yes")
    return Server(f"{product} {number}", _unfit(told, product, number), tuple(warnings))


def _unfit(told: dict[str, Any], product: str, number: str) -> str | None:
    if product == "Dragonfly":
        return f"it is Dragonfly, which refuses our scripts; use Redis {_OLDEST} or newer, or Valkey"
    mode = told.get("server_mode", told.get("redis_mode"))  # Valkey's name for it, and Redis'
    if mode == "sentinel":
        return "it is a Sentinel, which tells where Redis is: its URL begins with sentinel:// and names the master"
    if mode == "cluster" or told.get("cluster_enabled"):
        return IN_CLUSTER
    major = number.partition(".")[0]
    if product == "Redis" and major.isdecimal() and int(major) < _OLDEST:
        return f"it is Redis {number}; use Redis {_OLDEST} or newer, or Valkey"
    return None


def _saves(redis: Redis, told: dict[str, Any]) -> bool:
    """Whether Redis saves to its disk; true where its user may not ask."""
    if told.get("aof_enabled"):
        return True
    try:
        return redis.config_get("save").get("save") != ""
    except ResponseError:
        return True
