"""The scripts of `worker.store`, which says what they are for; `producers.ledger` shows what they write."""

from __future__ import annotations

from producers import keys
from producers.ledger import LOST_AFTER_S, PRELUDE, State

#: Seconds over which tasks that lost two workers in a row are spread, and again as many for each further one. They were
#: together both times; apart, the one that is to blame takes no others along until it is found out.
_SPREAD_S = 15
#: Seconds between two looks at a message that waits in a long queue, at most.
_LOOK_AGAIN_S = 600

#: Takes a task that is done with from its entry, and settles the request with its last one.
_REMOVE = f"""
local function remove(entry, kind, task, ttl)
    redis.call('HDEL', entry, kind, kind .. '.list', kind .. '.queued', kind .. '.run', kind .. '.fair')
    redis.call('ZREM', OWED, task)
    for _, other in ipairs({{'score', 'callback', 's3'}}) do
        if redis.call('HEXISTS', entry, other) == 1 then return end
    end
    if redis.call('HEXISTS', entry, 'buried') == 1 then
        redis.call('HSET', entry, 'state', '{State.DEAD}')
    else
        redis.call('HSET', entry, 'state', '{State.SETTLED}')
        redis.call('EXPIRE', entry, ttl)
    end
end
"""

#: ARGV: task, its list and message (for one never seen before), seconds of the lease, runs lost at most, who asks.
BEGIN = (
    PRELUDE
    + f"""
local task, list, message, lease, most, who = unpack(ARGV)
local entry, kind = split(task)
if redis.call('EXISTS', entry) == 0 then
    redis.call('HSET', entry, kind, message, kind .. '.list', list, kind .. '.queued', now)
    note(entry, kind .. ' seen for the first time')
elseif redis.call('HEXISTS', entry, kind) == 0 then
    return {{'gone', 0, ''}}
elseif tonumber(redis.call('HGET', entry, kind .. '.queued')) <= 0 then
    -- Also when its lease is over: whether it comes again, and when, is for the sweeper to say.
    return {{'taken', 0, ''}}
end
local run = redis.call('HINCRBY', entry, kind .. '.run', 1)
local lost = run - 1 - tonumber(redis.call('HGET', entry, kind .. '.fair') or 0)
redis.call('HSET', entry, kind .. '.queued', 0)
redis.call('ZADD', OWED, now + lease, task)
local poison = lost >= tonumber(most)
note(entry, kind .. (poison and ' found to be poison by ' or ' begun by ') .. who)
redis.call('HSET', entry, 'state', kind == 'score' and '{State.FETCHING}' or '{State.DELIVERING}')
return {{poison and 'poison' or 'begun', run, redis.call('HGET', entry, 'history')}}
"""
)

#: ARGV: seconds of a lease, then task and run of each that is still worked on.
RENEW = (
    PRELUDE
    + """
for at = 2, #ARGV, 2 do
    local entry, kind = split(ARGV[at])
    local run, fair, queued = unpack(redis.call('HMGET', entry, kind .. '.run', kind .. '.fair', kind .. '.queued'))
    -- A run that has ended properly is put off until it is due.
    if run == ARGV[at + 1] and fair ~= run and queued == '0' then
        redis.call('ZADD', OWED, 'XX', now + ARGV[1], ARGV[at])
    end
end
"""
)

#: ARGV: task, run, the state its request is in now.
MARK = (
    PRELUDE
    + """
local entry, kind = split(ARGV[1])
if redis.call('HGET', entry, kind .. '.run') == ARGV[2] then redis.call('HSET', entry, 'state', ARGV[3]) end
"""
)

#: ARGV: the request's id, its verdict, for how many seconds that is kept, id and text of a dead letter that says more
#: (empty if there is none), then task and message of each delivery. Gives 1; 0 if another worker was first; 2 if
#: nothing is known of the request, as after Redis lost its data: what was scored is worth keeping all the same.
PUBLISH = (
    PRELUDE
    + _REMOVE
    + f"""
local id = ARGV[1]
local entry, kind = split(id)
-- Fails here if it must, before anything is written.
redis.call('LLEN', '{keys.DELIVER_QUEUE}')
local known = redis.call('EXISTS', entry) == 1
if known and redis.call('HEXISTS', entry, kind) == 0 then return 0 end
if not redis.call('SET', '{keys.result("")}' .. id, ARGV[2], 'NX', 'EX', ARGV[3]) then
    if known then remove(entry, kind, id, ARGV[3]) end
    return 0
end
for at = 6, #ARGV, 2 do
    enqueue(ARGV[at], '{keys.DELIVER_QUEUE}', ARGV[at + 1])
    redis.call('HSET', entry, 'state', '{State.SCORED}')
end
note(entry, 'verdict published')
if ARGV[4] ~= '' then
    redis.call('HSET', '{keys.DEAD}', ARGV[4], ARGV[5])
    redis.call('HINCRBY', entry, 'buried', 1)
end
remove(entry, kind, id, ARGV[3])
redis.call('PUBLISH', '{keys.done("")}' .. id, '')
return known and 1 or 2
"""
)

#: ARGV: task, and for how many seconds a settled request is remembered.
FINISH = (
    PRELUDE
    + _REMOVE
    + """
local entry, kind = split(ARGV[1])
if redis.call('HEXISTS', entry, kind) == 0 then return 0 end
note(entry, kind .. ' delivered')
remove(entry, kind, ARGV[1], ARGV[2])
return 1
"""
)

#: ARGV: task, run, its new message (empty if unchanged), in how many seconds, why, and 1 if the run ended properly.
LATER = (
    PRELUDE
    + f"""
local task, run, message, delay, why, fair = unpack(ARGV)
local entry, kind = split(task)
if redis.call('HGET', entry, kind .. '.run') ~= run then return 0 end
if message ~= '' then redis.call('HSET', entry, kind, message) end
if fair == '1' then redis.call('HSET', entry, kind .. '.fair', run) end
if kind == 'score' then redis.call('HSET', entry, 'state', '{State.SUBMITTED}') end
redis.call('HSET', entry, kind .. '.queued', 0)
redis.call('ZADD', OWED, now + delay, task)
note(entry, kind .. ' again in ' .. string.format('%.1f', delay) .. ' s: ' .. why)
return 1
"""
)

#: ARGV: task (empty if nobody knows), run (empty for any), the letter's id and the letter.
BURY = (
    PRELUDE
    + _REMOVE
    + f"""
local task, run, id, letter = unpack(ARGV)
local entry, kind = split(task)
local known = task ~= '' and redis.call('HEXISTS', entry, kind) == 1
if run ~= '' and redis.call('HGET', entry, kind .. '.run') ~= run then return 0 end
redis.call('HSET', '{keys.DEAD}', id, letter)
if known then
    note(entry, kind .. ' buried')
    redis.call('HINCRBY', entry, 'buried', 1)
    remove(entry, kind, task, 0)
end
return 1
"""
)

#: ARGV: how many at most. Gives how many were overdue, and how many of them have entries that nobody can read: those
#: are set aside, so that they keep no other from being looked after.
SWEEP = (
    PRELUDE
    + f"""
local overdue = redis.call('ZRANGEBYSCORE', OWED, '-inf', now, 'LIMIT', 0, ARGV[1])
local since = {{}}

local function look_after(at, task)
    local entry, kind = split(task)
    local fields = {{kind, kind .. '.list', kind .. '.queued', kind .. '.run', kind .. '.fair'}}
    local message, list, queued, run, fair = unpack(redis.call('HMGET', entry, unpack(fields)))
    if not message then
        redis.call('ZREM', OWED, task)
        return
    end
    if not since[list] then since[list] = oldest(list) end
    queued = tonumber(queued)
    local lost = tonumber(run or 0) - tonumber(fair or 0)
    if queued > 0 and queued >= since[list] then
        redis.call('ZADD', OWED, now + math.min(math.max(now - queued, {LOST_AFTER_S}), {_LOOK_AGAIN_S}), task)
    elseif queued == 0 and lost > 1 then
        -- Multiples of the golden ratio fall evenly.
        local wait = {_SPREAD_S} * (lost - 1) * ((at * 0.618034 + now) % 1)
        redis.call('HSET', entry, kind .. '.queued', -1)
        redis.call('ZADD', OWED, now + wait, task)
        note(entry, kind .. string.format(' was lost %d times in a row, again in %.1f s', lost, wait))
    elseif queued > 0 or lost > 0 then
        -- It has waited before.
        since[list] = enqueue(task, list, message, since[list])
        note(entry, kind .. ' was lost, queued again')
    else
        enqueue(task, list, message)
        note(entry, kind .. ' due, queued again')
    end
end

local unread = 0
for at, task in ipairs(overdue) do
    if not pcall(look_after, at, task) then
        unread = unread + 1
        redis.call('ZREM', OWED, task)
        redis.call('ZADD', '{keys.UNREAD}', now, task)
    end
end
return {{#overdue, unread}}
"""
)
