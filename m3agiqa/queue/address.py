"""Reads the URL of Redis, in one way for producers, workers, Flower and `doctor`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from m3agiqa.errors import ConfigError

DEFAULT = "redis://localhost:6379/0"
#: Variables with the URL, and with user and password, which the URL may then leave out.
URL_VARIABLE = "M3AGIQA_REDIS_URL"
USERNAME_VARIABLE = "M3AGIQA_REDIS_USERNAME"
PASSWORD_VARIABLE = "M3AGIQA_REDIS_PASSWORD"  # noqa: S105

_PORT = 6379
_SCHEMES = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"}
_OPTIONS = {
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
}

#: Shows nothing of the URL: any part of a malformed one may belong to a password.
_FORM = (
    "the Redis URL must look like redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path?db=0; "
    f"write #, /, ? and @ in a password as %23, %2F, %3F and %40, % as %25, a space as %20, or set {PASSWORD_VARIABLE}"
)


@dataclass(frozen=True)
class Address:
    """A Redis, and the user and password to log in with."""

    #: redis, rediss (with TLS) or unix.
    scheme: str
    #: `host:port`, or the path of a socket. Messages may show it.
    endpoint: str
    db: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    #: TLS settings, as they stand in the URL.
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

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
        parts = urlsplit(text)
        scheme = _SCHEMES.get(parts.scheme, "")
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        path = unquote(parts.path)
        if scheme == "unix":
            endpoint, db = path, options.pop("db", "0")
            named = endpoint.startswith("/") and not parts.hostname
        else:
            # urlsplit drops the brackets of an IPv6 address.
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            endpoint, db = f"{host}:{_PORT if parts.port is None else parts.port}", path.removeprefix("/")
            db = options.pop("db", db) or "0"
            named = bool(parts.hostname) and parts.port != 0
        if not scheme or not named or not re.fullmatch("[0-9]{1,6}", db) or not _OPTIONS.issuperset(options):
            raise ValueError
        return cls(
            scheme,
            endpoint,
            int(db),
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            tuple(options.items()),
        )

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
        return found.as_user(given[USERNAME_VARIABLE], given[PASSWORD_VARIABLE])

    def as_user(self, username: str, password: str) -> Self:
        """The same Redis with this user and password, where they are not empty."""
        return replace(self, username=username or self.username, password=password or self.password)

    @property
    def url(self) -> str:
        """The URL for redis-py, with odd characters escaped."""
        if self.scheme == "unix":
            return f"unix://{self._user}{quote(self.endpoint)}?{urlencode({'db': self.db})}"
        return f"{self.scheme}://{self._user}{self.endpoint}/{self.db}{self._query}"

    @property
    def broker_url(self) -> str:
        """The URL for kombu, which writes sockets in another form."""
        if self.scheme == "unix":
            return f"redis+socket://{self._user}{quote(self.endpoint)}?{urlencode({'virtual_host': self.db})}"
        return self.url

    @property
    def _user(self) -> str:
        user, password = quote(self.username, safe=""), quote(self.password, safe="")
        return f"{user}:{password}@" if password else f"{user}@" if user else ""

    @property
    def _query(self) -> str:
        return f"?{urlencode(self.options)}" if self.options else ""
