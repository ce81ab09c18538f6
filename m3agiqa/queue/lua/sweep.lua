-- Queue overdue tasks again, lost ones first, and drop dead letters that are too old. ARGV: how many at most, and
-- seconds for which dead letters are kept. Returns how many were overdue, and how many of them cannot be read.

-- Seconds over which tasks that lost two workers in a row are spread, and as many more for each further worker lost.
-- They were together both times. Apart, the one that is to blame takes no others along until it is poison.
local SPREAD_S = 15
-- Seconds between two looks at most at a name that waits in a long queue.
local LOOK_AGAIN_S = 600

local since = {}
local function waits_since(list)
    since[list] = since[list] or (oldest(list))
    return since[list]
end

-- Forget names at the front of a lane that lie on its list no more, and refill it. There are some after somebody
-- deleted keys, or a worker of a version without lanes took them.
local function mend(lane)
    for _, id in ipairs(redis.pcall('SMEMBERS', lane.front)) do
        local told = redis.pcall('HMGET', REQUEST .. id, 'score.queued', 'score.lane')
        if (tonumber(told[1] or 0) or 0) <= 0 or is_laned(told[1], told[2]) then
            redis.call('SREM', lane.front, id)
        end
    end
    refill(lane)
    measure(lane)
end

local function look_after(at, task)
    local entry, kind = split(task)
    local owed, queued, run, fair, laned, priority = unpack(
        redis.call(
            'HMGET', entry, kind, kind .. '.queued', kind .. '.run', kind .. '.fair', kind .. '.lane', 'priority'
        )
    )
    if not owed then
        redis.call('ZREM', OWED, task)
        return true
    end
    local lane = kind == 'score' and lane_of(tenant_of(task), priority)
    local list = lane and lane.list or DELIVER_QUEUE
    local place = lane and is_laned(queued, laned) and lane.names or list
    queued = tonumber(queued)
    local lost = tonumber(run or 0) - tonumber(fair or 0)
    if queued == 0 and lost > 0 then count('leases_lost', kind) end
    local first = waits_since(place)
    -- A lane's next one may have been answered before its turn, which says nothing of those behind it.
    local length = place ~= list and first == math.huge and redis.pcall('LLEN', place)
    if type(length) == 'number' and length > 0 then first = 0 end
    if queued > 0 and queued >= first then
        redis.call('ZADD', OWED, now + math.min(math.max(now - queued, LOST_AFTER_S), LOOK_AGAIN_S), task)
    elseif queued == 0 and lost > 1 then
        -- Multiples of the golden ratio spread evenly.
        local wait = SPREAD_S * (lost - 1) * ((at * 0.618034 + now) % 1)
        redis.call('HSET', entry, kind .. '.queued', -1)
        redis.call('ZADD', OWED, now + wait, task)
        note(entry, kind .. string.format(' was lost %d times in a row, again in %.1f s', lost, wait))
    elseif queued > 0 or lost > 0 then
        -- It has waited apart already.
        since[list] = wake(task, waits_since(list))
        note(entry, kind .. ' was lost, queued again')
    else
        wake(task)
        note(entry, kind .. ' due, queued again')
    end
    return true
end

local overdue = redis.call('ZRANGEBYSCORE', OWED, '-inf', now, 'LIMIT', 0, ARGV[1])
local unread = 0
for at, task in ipairs(overdue) do
    if not try(task, function() return look_after(at, task) end) then unread = unread + 1 end
end

for _, letter in ipairs(redis.pcall('ZRANGEBYSCORE', DEAD_ORDER, '-inf', now - ARGV[2], 'LIMIT', 0, ARGV[1])) do
    drop_letter(letter, 'dead letter expired')
end

local first, lanes = math.huge, {}
for _, priority in ipairs(PRIORITIES) do
    first = math.min(first, waits_longest(priority))
    local found = lanes_of(priority)
    for at = 1, #found, 2 do lanes[#lanes + 1] = lane_of(found[at], priority) end
end
-- One of them each time, so that many cost a sweep no more than few.
if #lanes > 0 then mend(lanes[1 + math.floor(now * 1000000) % #lanes]) end
if first < now then redis.call('SET', OLDEST, string.format('%.1f', now - first), 'EX', 60) end
return {#overdue, unread}
