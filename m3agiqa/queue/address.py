"""Reads the URL of Redis, in one way for producers, workers, Flower and `doctor`.

redis://user:password@host:6379/0           rediss:// with TLS, unix:///path?db=0 for a socket
sentinel://user:password@host:26379,host:26379/0?master=NAME    sentinels:// with TLS
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from m3agiqa.errors import ConfigError

DEFAULT = "redis://localhost:6379/0"
#: Variables with the URL, and with user and password, which the URL may then leave out.
URL_VARIABLE = "M3AGIQA_REDIS_URL"
USERNAME_VARIABLE = "M3AGIQA_REDIS_USERNAME"
PASSWORD_VARIABLE = "M3AGIQA_REDIS_PASSWORD"  # noqa: S105
#: Variable with the namespace, which goes before the URL's.
NAMESPACE_VARIABLE = "M3AGIQA_NAMESPACE"
#: What a namespace looks like: nothing in it means something in a pattern of keys, or ends it.
NAMESPACE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

_PORT, _SENTINEL_PORT = 6379, 26379
_SCHEMES = {
    **{"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"},
    **{"sentinel": "redis", "sentinels": "rediss"},
}
_TLS = {
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
}
_TRUE = ("", "1", "true", "True", "yes")

#: Shows nothing of the URL: any part of a malformed one may belong to a password.
_FORM = (
    "the Redis URL must look like redis://user:password@host:6379/0, rediss:// for TLS, unix:///path?db=0, or "
    "sentinel://user:password@host:26379,host:26379/0?master=NAME; "
    f"write #, /, ? and @ in a password as %23, %2F, %3F and %40, % as %25, a space as %20, or set {PASSWORD_VARIABLE}"
)


@dataclass(frozen=True)
class Sentinels:
    """How to ask Redis Sentinels for the primary."""

    #: Name under which they watch it.
    master: str
    #: Login at the Sentinels, which have users of their own.
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Address:
    """A Redis, the user and password to log in with, and the namespace that is ours there."""

    #: redis, rediss (with TLS) or unix.
    scheme: str
    #: `host:port`, of several Sentinels with commas between, or the path of a socket. Messages may show it.
    endpoint: str
    db: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    #: TLS settings, as they stand in the URL.
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    #: What all our names in this Redis begin with, and a colon; empty for nothing.
    namespace: str = ""
    #: Replicas that must have a request before its producer is told that it is submitted.
    replicas: int = 0
    #: None if `endpoint` is Redis itself.
    sentinels: Sentinels | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL as an operator wrote it: some files of variables leave quotes or spaces around it.

        Raises:
            ConfigError: this is no Redis URL. The message says how one looks, and shows nothing of this one.
        """
        text = re.sub(r"""^(['"])(.*)\1$""", r"\2", url.strip()).strip()
        try:
            return cls._parse(text)
        except ValueError:
            raise ConfigError(_FORM) from None

    @classmethod
    def _parse(cls, text: str) -> Self:
        if re.search(r"[#\s\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})", text):
            raise ValueError
        scheme, _, rest = text.partition("://")
        authority = re.split("[/?]", rest, maxsplit=1)[0]
        parts = urlsplit(f"//{rest[len(authority) :]}")
        # A plus is a plus, as everywhere else in a URL.
        query = parts.query.replace("+", "%2B")
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        user, _, hosts = authority.rpartition("@")
        username, _, password = user.partition(":")
        path = unquote(parts.path)
        sentinels = _sentinels(options) if scheme.startswith("sentinel") else None
        # Somebody may have given each Sentinel a login, where there is one for all.
        named = sentinels is None or "@" not in user
        if scheme == "unix":
            endpoint, db = path, options.pop("db", "0")
            named = endpoint.startswith("/") and not hosts
        else:
            split = hosts.split(",") if sentinels else [hosts]
            endpoint = ",".join(_endpoint(host, _SENTINEL_PORT if sentinels else _PORT) for host in split)
            db = options.pop("db", path.removeprefix("/")) or "0"
        namespace, replicas = options.pop("namespace", ""), options.pop("replicas", "0")
        numbers = re.fullmatch("[0-9]{1,6}", db) and re.fullmatch("[0-9]", replicas)
        if scheme not in _SCHEMES or not named or not numbers or not _TLS.issuperset(options):
            raise ValueError
        return cls(
            _SCHEMES[scheme],
            endpoint,
            int(db),
            unquote(username),
            unquote(password),
            tuple(options.items()),
            replicas=int(replicas),
            sentinels=sentinels,
        ).within(namespace)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The Redis that the environment names; without a URL there, the one on this machine.

        Raises:
            ConfigError: as `parse`, with the variable's name.
        """
        given = {name: environment.get(name, "") for name in (URL_VARIABLE, USERNAME_VARIABLE, PASSWORD_VARIABLE)}
        try:
            found = cls.parse(given[URL_VARIABLE] or DEFAULT)
        except ConfigError as error:
            raise ConfigError(f"{URL_VARIABLE}: {error}") from None
        return found.as_user(given[USERNAME_VARIABLE], given[PASSWORD_VARIABLE]).within_environment(environment)

    def as_user(self, username: str, password: str) -> Self:
        """The same Redis with this user and password, where they are not empty."""
        return replace(self, username=username or self.username, password=password or self.password)

    def within(self, namespace: str) -> Self:
        """The same Redis in this namespace, if it is not empty. Raises ValueError if it does not look like one."""
        if namespace and not re.fullmatch(NAMESPACE, namespace):
            raise ValueError
        return replace(self, namespace=namespace or self.namespace)

    def within_environment(self, environment: Mapping[str, str] = os.environ) -> Self:
        """The same Redis in the namespace that the environment names, if it names one.

        Raises:
            ConfigError: it does not look like one.
        """
        try:
            return self.within(environment.get(NAMESPACE_VARIABLE, ""))
        except ValueError:
            raise ConfigError(
                f"{NAMESPACE_VARIABLE}: a namespace has letters, digits, dots, dashes and underscores, 64 at most"
            ) from None

    @property
    def prefix(self) -> str:
        """What stands in front of each of our names in this Redis."""
        return f"{self.namespace}:" if self.namespace else ""

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """Host and port of Redis, or of each Sentinel."""
        split = [endpoint.rpartition(":") for endpoint in self.endpoint.split(",")]
        return [(host.strip("[]"), int(port)) for host, _, port in split]

    @property
    def tls(self) -> dict[str, Any]:
        """TLS settings as redis-py and kombu take them where they are not in a URL."""
        return {name: value if name != "ssl_check_hostname" else value in _TRUE for name, value in self.options}

    @property
    def url(self) -> str:
        """The whole of it as a URL that `parse` reads, with odd characters escaped."""
        query = {"db": str(self.db)} if self.scheme == "unix" else {}
        query |= dict(self.options)
        scheme = self.scheme
        if self.sentinels is not None:
            scheme = "sentinels" if scheme == "rediss" else "sentinel"
            login = {"sentinel_username": self.sentinels.username, "sentinel_password": self.sentinels.password}
            query |= {"master": self.sentinels.master, **{name: value for name, value in login.items() if value}}
        query |= {"namespace": self.namespace} if self.namespace else {}
        query |= {"replicas": str(self.replicas)} if self.replicas else {}
        place = quote(self.endpoint) if self.scheme == "unix" else f"{self.endpoint}/{self.db}"
        return f"{scheme}://{self._user}{place}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    @property
    def broker_url(self) -> str:
        """The URL for kombu, which writes sockets and Sentinels in another form, and takes options elsewhere."""
        if self.scheme == "unix":
            return f"redis+socket://{self._user}{quote(self.endpoint)}?{urlencode({'virtual_host': self.db})}"
        scheme = "sentinel" if self.sentinels else self.scheme
        return ";".join(f"{scheme}://{self._user}{endpoint}/{self.db}" for endpoint in self.endpoint.split(","))

    @property
    def _user(self) -> str:
        user, password = quote(self.username, safe=""), quote(self.password, safe="")
        return f"{user}:{password}@" if password else f"{user}@" if user else ""


def _endpoint(host: str, default_port: int) -> str:
    """`host:port` of what stands in a URL; ValueError if it is neither."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.port == 0 or parts.netloc != host or "," in host:
        raise ValueError
    # urlsplit drops the brackets of an IPv6 address.
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{name}:{default_port if parts.port is None else parts.port}"


def _sentinels(options: dict[str, str]) -> Sentinels:
    """Take what concerns Sentinels out of the options; ValueError if they name no primary."""
    if not options.get("master"):
        raise ValueError
    return Sentinels(options.pop("master"), options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
