"""Shares a worker's threads out among the servers it talks to, so that a slow server delays no other.

A server has a *site* (its registered domain; each customer of a storage provider has a domain of his own) and an
*endpoint* (its address, or the /64 of an IPv6 address, with the port). Many sites may share an endpoint, and a site may
have many endpoints. A site is

    quick     if its last exchanges took less than PATIENCE_S on average
    slow      if they took longer: an exchange begins only with a slow permit, and a quarter of the threads have one
    unknown   before its first exchange

    threads that may be held by          quick              unknown or slow    slow
    all servers together                 all                half               a quarter
    a site, or an endpoint               `per_server`       a quarter          an eighth

**No exchange lasts longer than PATIENCE_S without a slow permit**: after that time it gets one or is cut off. So three
quarters of the threads are free again within a second, whatever servers do. Where unknown sites fill their share, the
exchange that has lasted longest gives way to another site's, and its site may take twice as long next time. So a site
does not wait longer for its first exchange because many came before it.

No thread waits here: an exchange without room raises `Busy`, and its task is put off.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from m3agiqa.errors import Busy

#: Seconds that an exchange may take without a slow permit; a site that takes longer on average is slow.
PATIENCE_S = 1.0
#: Seconds after which the first exchange with an unknown site may have to give way to another site's.
FIRST_LOOK_S = 0.25
#: Sites and endpoints that are remembered; a forgotten one is unknown again.
MOST_SERVERS = 4096

#: Seconds after which an exchange asks again whether it has to give way.
_GLANCE_S = 0.1
#: Seconds that a task is put off at least.
_LEAST_DELAY_S = 0.1
#: Part by which a delay grows at random at most, so that tasks put off together do not come back together.
_JITTER = 0.2
#: Weight of the newest exchange in a running mean.
_NEWEST = 1 / 4
#: Factor for the seconds of an exchange that was cut off because it was slow: it would have taken longer.
_CUT_OFF_COUNTS = 2.0


class _Pace(IntEnum):
    QUICK = 1
    UNKNOWN = 2
    SLOW = 3


@dataclass(eq=False, slots=True)
class _Limit:
    """At most `most` exchanges at a time."""

    most: int
    held: int = 0
    #: Running mean of the seconds that an exchange stays.
    mean_s: float = 0.1
    #: Exchanges turned away since the last one left.
    turned_away: int = 0

    def leave(self, took_s: float) -> None:
        self.held -= 1
        self.turned_away = 0
        self.mean_s += (took_s - self.mean_s) * _NEWEST

    def turn_away(self) -> float:
        """Count an exchange that found no room; returns the seconds after which there may be some."""
        self.turned_away += 1
        return self.mean_s * self.turned_away / self.most * random.uniform(1, 1 + _JITTER)


class _Server:
    """A site, an endpoint, or all servers together: how many threads it may hold, and how quick a site is."""

    def __init__(self, name: str, since: float, *, exchanges: int, tardy: int, slow: int) -> None:
        #: Name for the message to a task that is put off.
        self.name = name
        #: When its first exchange was asked for.
        self.since = since
        self._limits = (_Limit(exchanges), _Limit(tardy), _Limit(slow))
        #: Running mean of an exchange's seconds; None before the first.
        self._mean_s: float | None = None
        #: Seconds that an exchange has before it may have to give way, while the site is unknown.
        self.look_s = FIRST_LOOK_S

    def limits(self, pace: _Pace) -> tuple[_Limit, ...]:
        """The limits that an exchange of this pace counts for: a slow one counts for all of them."""
        return self._limits[:pace]

    @property
    def pace(self) -> _Pace:
        if self._mean_s is None:
            return _Pace.UNKNOWN
        return _Pace.QUICK if self._mean_s < PATIENCE_S else _Pace.SLOW

    @property
    def idle(self) -> bool:
        return not self._limits[0].held

    def count(self, took_s: float) -> None:
        self._mean_s = took_s if self._mean_s is None else self._mean_s + (took_s - self._mean_s) * _NEWEST


@dataclass(eq=False, slots=True)
class Share:
    """An exchange's part of the threads. Only the thread that carries the exchange out may use it."""

    _shares: Shares
    _began: float
    _may_give_way: bool
    #: The exchange's site, then its endpoints.
    _servers: list[_Server] = field(default_factory=list)
    _pace: _Pace = _Pace.QUICK
    _held: list[_Limit] = field(default_factory=list)
    #: Seconds after which the exchange may have to give way.
    _look_s: float = FIRST_LOOK_S
    _gave_way: bool = False
    #: Factor by which its seconds count for its site.
    _counts: float = 1.0

    def meet(self, endpoint: str) -> None:
        """Take room at an endpoint that the exchange connects to.

        Raises:
            Busy: the endpoint has all threads it may have.
        """
        self._shares._meet(self, endpoint)

    def go_on(self) -> float:
        """Ask whether the exchange may go on; returns the seconds after which it must ask again.

        Raises:
            Busy: it may not go on.
        """
        return self._shares._go_on(self)


class Shares:
    """Says how many of `threads` each server may have. Safe to share among threads.

    `per_server` bounds the exchanges with one site or endpoint, `slow_share` is the part of the threads that get slow
    permits, and a task is put off for `longest_delay_s` seconds at most. `clock` returns seconds.
    """

    def __init__(
        self,
        threads: int = 1024,
        *,
        per_server: int | None = None,
        slow_share: float = 0.25,
        longest_delay_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        permits = max(1, int(threads * slow_share))
        # Unknown sites have room even while all slow permits are taken.
        tardy = max(1, threads // 2, min(threads, permits + threads // 4))
        self._all = _Server("slow and unknown servers", clock(), exchanges=threads, tardy=tardy, slow=permits)
        self._threads = threads
        self._per_server = threads if per_server is None else per_server
        self._per_slow_server = max(1, permits // 2)
        self._longest_delay_s = longest_delay_s
        self._clock = clock
        self._servers: OrderedDict[str, _Server] = OrderedDict()
        #: Exchanges with unknown sites that may have to give way, the oldest first.
        self._looking: dict[Share, None] = {}
        self._lock = threading.Lock()

    @contextmanager
    def take(self, site: str, *, may_give_way: bool = True) -> Iterator[Share]:
        """Hold the threads that an exchange with `site` counts for. `may_give_way` says that the exchange calls
        `Share.go_on` whenever it waits; a site whose exchanges do not can never hold the last quarter of the threads.

        Raises:
            Busy: there is no room, or the exchange has to give way.
        """
        share = Share(self, self._clock(), may_give_way)
        self._meet(share, site)
        try:
            yield share
        finally:
            self._end(share)

    def _meet(self, share: Share, name: str) -> None:
        with self._lock:
            server = self._server(name, share)
            if server in share._servers:
                return
            share._servers.append(server)
            if server is share._servers[0]:
                share._pace, share._look_s = server.pace, server.look_s
            try:
                self._stay(share)
                self._admit(share, share._pace)
            except Busy:
                # The site has done nothing yet that could count.
                share._counts = 0.0
                raise

    def _go_on(self, share: Share) -> float:
        with self._lock:
            self._stay(share)
            if share._pace is _Pace.SLOW:
                return math.inf
            left_s = share._began + PATIENCE_S - self._clock()
            if left_s > 0:
                return min(left_s, _GLANCE_S) if share._pace is _Pace.UNKNOWN else left_s
            try:
                self._admit(share, _Pace.SLOW)
            except Busy:
                share._counts = _CUT_OFF_COUNTS
                raise
            return math.inf

    def _end(self, share: Share) -> None:
        with self._lock:
            now = self._clock()
            self._leave(share, now)
            if share._counts:
                share._servers[0].count((now - share._began) * share._counts)

    def _admit(self, share: Share, pace: _Pace) -> None:
        """Have an exchange count for all limits of this pace."""
        now, needed = self._clock(), []
        for server in (*share._servers, self._all):
            for limit in server.limits(pace):
                if limit in share._held:
                    continue
                if limit.held >= limit.most and not (pace is _Pace.UNKNOWN and self._make_room(limit, share, now)):
                    raise self._turned_away(share, server, limit, pace)
                needed.append(limit)
        for limit in needed:
            limit.held += 1
        share._held += needed
        share._pace = pace
        if pace is _Pace.UNKNOWN and share._may_give_way:
            self._looking[share] = None
        else:
            self._looking.pop(share, None)

    def _make_room(self, limit: _Limit, newer: Share, now: float) -> bool:
        """Have another site's exchange give way, if one may; its limits are free at once, its thread in a moment."""
        for share in self._looking:
            site = share._servers[0]
            if site is not newer._servers[0] and limit in share._held and now - share._began >= share._look_s:
                site.look_s = max(site.look_s, 2 * share._look_s)
                share._gave_way, share._counts = True, 0.0
                self._leave(share, now)
                return True
        return False

    def _leave(self, share: Share, now: float) -> None:
        for limit in share._held:
            limit.leave(now - share._began)
        share._held = []
        self._looking.pop(share, None)

    def _stay(self, share: Share) -> None:
        if share._gave_way:
            raise Busy("its site is not known yet, and gave way to another", self._soon_s(share))

    def _turned_away(self, share: Share, server: _Server, limit: _Limit, pace: _Pace) -> Busy:
        if pace is _Pace.UNKNOWN and server is not share._servers[0]:
            delay_s = self._soon_s(share)
        else:
            delay_s = min(max(limit.turn_away(), _LEAST_DELAY_S), self._longest_delay_s)
        return Busy(f"{server.name} held all threads they may have", delay_s)

    def _soon_s(self, share: Share) -> float:
        """Seconds until other sites have had their exchange; a site that has waited long asks less often."""
        waited_s = self._clock() - share._servers[0].since
        return random.uniform(FIRST_LOOK_S, 1) * min(max(waited_s, PATIENCE_S), self._longest_delay_s)

    def _server(self, name: str, share: Share) -> _Server:
        server = self._servers.get(name)
        if server is None:
            if len(self._servers) >= MOST_SERVERS:
                del self._servers[next(old for old, known in self._servers.items() if known.idle)]
            most = self._per_server if share._may_give_way else min(self._per_server, max(1, self._threads * 3 // 4))
            server = self._servers[name] = _Server(
                "exchanges with its address" if share._servers else "exchanges with its site",
                self._clock(),
                exchanges=most,
                tardy=min(most, 2 * self._per_slow_server),
                slow=min(most, self._per_slow_server),
            )
        self._servers.move_to_end(name)
        return server
