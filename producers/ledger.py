"""The ledger in Redis: every request that is owed an answer, so that no crash between two commands loses one.

The life of an entry, and what workers do to it, is drawn in `worker.store`; here is what producers do: submit, ask,
replay and drop. Everything is a script, because Redis runs a script as one step that nobody sees half done.

A *task* is one message's worth of work: scoring a request (its name is the request's id) or one delivery of its verdict
(`ID:callback`, `ID:s3`). An entry is a hash:

    state                 see `State`
    score, callback, s3   the message of each task that is still owed
    TASK.list             where that message is queued
    TASK.queued           when it was put there; 0 once a worker took it, and while it waits to be tried again, -1 while
                          it waits because several workers were lost with it
    TASK.run, TASK.fair   how often a worker began it, and which of these runs last ended properly
    buried                how many of its tasks are dead letters
    history               a line for everything above, the newest last

The sorted set `keys.OWED` holds every owed task, by the time at which somebody must look after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from redis import Redis

from m3agiqa.contract import ScoreRequest
from m3agiqa.errors import RequestInvalid
from producers import keys, message
from producers.dead import DeadLetter

#: Seconds a message may be on no list and with no worker before it counts as lost on its way. Taking one to writing
#: that down is a matter of milliseconds.
LOST_AFTER_S = 30
#: Characters of history kept: some forty events.
_HISTORY_CHARS = 3_000


class State(StrEnum):
    """Where a request is."""

    SUBMITTED = "submitted"
    FETCHING = "fetching"
    SCORING = "scoring"
    #: The verdict is there, and its deliveries are queued.
    SCORED = "scored"
    DELIVERING = "delivering"
    #: Nothing is owed any more.
    SETTLED = "settled"
    #: Given up: a dead letter says why.
    DEAD = "dead"


def delivery_task(request_id: str, kind: str) -> str:
    """Name of a delivery. Ids of requests hold no colon."""
    return f"{request_id}:{kind}"


#: In front of every script. The server's clock decides: those of workers differ.
PRELUDE = f"""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local OWED = '{keys.OWED}'

local function split(task)
    local id, kind = string.match(task, '^([^:]*):?(.*)$')
    return '{keys.request("")}' .. id, kind == '' and 'score' or kind
end

local function note(entry, text)
    local past = redis.call('HGET', entry, 'history') or ''
    local line = string.format('%.3f %s\\n', now, text)
    redis.call('HSET', entry, 'history', string.sub(past .. line, -{_HISTORY_CHARS}))
end

-- As the last of its list, or in front of one that was queued at `ahead_of`: along a list, these times always grow.
local function enqueue(task, list, message, ahead_of)
    local entry, kind = split(task)
    -- What one script queues has an order as well; each of them takes longer than this.
    now = now + 0.000001
    local queued = math.min(now, (ahead_of or math.huge) - 0.000001)
    redis.call('HSET', entry, kind, message, kind .. '.list', list, kind .. '.queued', queued)
    redis.call('ZADD', OWED, now + {LOST_AFTER_S}, task)
    redis.call(ahead_of and 'RPUSH' or 'LPUSH', list, message)
    return queued
end

-- When the message that is taken next was put on its list; math.huge if there is none, or nobody wrote it down.
local function oldest(list)
    local raw = redis.call('LINDEX', list, -1)
    local sound, message = pcall(cjson.decode, raw or '')
    if not sound or type(message) ~= 'table' or type(message.headers) ~= 'table' then return math.huge end
    if type(message.headers.id) ~= 'string' then return math.huge end
    local entry, kind = split(message.headers.id)
    local queued = tonumber(redis.call('HGET', entry, kind .. '.queued') or 0)
    return queued > 0 and queued or math.huge
end
"""

_SCORE_LISTS = ", ".join(f"'{message.list_key(keys.SCORE_QUEUE, step)}'" for step in message.PRIORITY_STEPS)

#: ARGV: how many may wait at most, then task, list and message of each. Gives how many were taken (those known already
#: count), and the age of the oldest that waits.
_SUBMIT = (
    PRELUDE
    + f"""
local waiting = 0
local since = now
for _, list in ipairs({{{_SCORE_LISTS}}}) do
    waiting = waiting + redis.call('LLEN', list)
    since = math.min(since, oldest(list))
end
for at = 2, #ARGV, 3 do
    local entry = split(ARGV[at])
    if redis.call('EXISTS', entry) == 0 then
        if waiting >= tonumber(ARGV[1]) then return {{(at - 2) / 3, tostring(now - since)}} end
        redis.call('HSET', entry, 'state', '{State.SUBMITTED}')
        enqueue(ARGV[at], ARGV[at + 1], ARGV[at + 2])
        note(entry, 'submitted')
        waiting = waiting + 1
    end
end
return {{(#ARGV - 1) / 3, '0'}}
"""
)

#: ARGV: the letter's id, the task's name (empty if nobody knows), list and message. Gives whether it was there; -1 if
#: its request has a verdict, which would stay the one that holds.
_REPLAY = (
    PRELUDE
    + f"""
local _, asked = split(ARGV[2])
if asked == 'score' and redis.call('EXISTS', '{keys.result("")}' .. ARGV[2]) == 1 then return -1 end
if redis.call('HDEL', '{keys.DEAD}', ARGV[1]) == 0 then return 0 end
if ARGV[2] == '' then
    redis.call('LPUSH', ARGV[3], ARGV[4])
    return 1
end
local entry, kind = split(ARGV[2])
redis.call('PERSIST', entry)
redis.call('HSET', entry, 'state', kind == 'score' and '{State.SUBMITTED}' or '{State.SCORED}')
redis.call('HSET', entry, kind .. '.fair', redis.call('HGET', entry, kind .. '.run') or 0)
if redis.call('HINCRBY', entry, 'buried', -1) < 1 then redis.call('HDEL', entry, 'buried') end
enqueue(ARGV[2], ARGV[3], ARGV[4])
note(entry, kind .. ' replayed')
return 1
"""
)

#: ARGV: the letter's id, the request's id (empty if nobody knows), and for how many seconds that is remembered.
_DROP = (
    PRELUDE
    + f"""
if redis.call('HDEL', '{keys.DEAD}', ARGV[1]) == 0 then return 0 end
local entry = split(ARGV[2])
if redis.call('HEXISTS', entry, 'buried') == 1 then
    note(entry, 'dropped')
    if redis.call('HINCRBY', entry, 'buried', -1) < 1 then
        redis.call('HDEL', entry, 'buried')
        if redis.call('HGET', entry, 'state') == '{State.DEAD}' then redis.call('EXPIRE', entry, ARGV[3]) end
    end
end
return 1
"""
)

#: Seconds a dropped request is remembered, so that a late copy of it is not taken for a new one.
_DROPPED_TTL_S = 86_400


@dataclass(frozen=True)
class Taken:
    """What became of a batch of requests."""

    #: Those from the first on that are in the ledger.
    count: int
    #: Seconds the oldest of those that wait has waited, if the rest was refused.
    oldest_s: float


class Ledger:
    """What producers write to the ledger. Raises what redis-py raises."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._submit = redis.register_script(_SUBMIT)
        self._replay = redis.register_script(_REPLAY)
        self._drop = redis.register_script(_DROP)

    def submit(self, requests: Sequence[ScoreRequest], max_queued: int) -> Taken:
        """Enter and enqueue requests that are not in the ledger yet, while less than `max_queued` wait."""
        arguments: list[str | int] = [max_queued]
        for request in requests:
            list_key = message.list_key(keys.SCORE_QUEUE, request.priority)
            arguments += [request.request_id, list_key, message.score_message(request)]
        count, oldest_s = self._submit(args=arguments)
        return Taken(int(count), float(oldest_s))

    def state(self, request_id: str) -> State | None:
        found = self._redis.hget(keys.request(request_id), "state")
        return None if found is None else State(str(found))

    def history(self, request_id: str) -> tuple[str, ...]:
        """A line for everything that happened, each with its Unix time, the newest last."""
        return tuple(str(self._redis.hget(keys.request(request_id), "history") or "").splitlines())

    def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter's message back on its queue; False if somebody else took it from the dead letters.

        Raises:
            RequestInvalid: its request was answered.
        """
        replayed = self._replay(args=[letter.id, letter.task or "", _list_of(letter), letter.message])
        if replayed == -1:
            raise RequestInvalid("its request was answered with a failure; submit the picture again under a new id")
        return bool(replayed)

    def drop(self, letter: DeadLetter) -> bool:
        """Forget a dead letter; False if it was gone already."""
        return bool(self._drop(args=[letter.id, letter.request_id or "", _DROPPED_TTL_S]))


def _list_of(letter: DeadLetter) -> str:
    """Where its message was; for one that is wrong the most urgent list, to be told again what is."""
    if letter.queue == keys.SCORE_QUEUE:
        with suppress(RequestInvalid):
            request = ScoreRequest.parse(message.parse(letter.message, letter.queue).payload)
            return message.list_key(letter.queue, request.priority)
    return message.list_key(letter.queue)
