-- The beginning of every script. `m3agiqa.queue.scripts` puts the names of keys in front of it, and letters.lua behind.
-- Times are of the server's clock, as the clocks of workers differ.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

-- Seconds after which a name that is on no list and with no worker counts as lost. A worker that takes a name claims
-- its task within milliseconds.
local LOST_AFTER_S = 30
local PRIORITIES = {'0', '3', '6', '9'}
-- Names of a tenant that lie on a list of the score queue at most. Others wait in a lane of the tenant's own.
local MOST_IN_FRONT = 16
-- Characters of history that are kept: some forty events.
local HISTORY_CHARS = 3000
-- Seconds for which it is kept how much each tenant used on a day: 400 days.
local USAGE_S = 34560000
-- Seconds for which a receiver whose latest attempt failed is remembered, and how many of them at most.
local FAILING_S = 3600
local MOST_FAILING = 50

-- The key of a task's entry, and the task's kind: score, callback or s3.
local function split(task)
    local id, kind = string.match(task, '^([^:]*):?(.*)$')
    return REQUEST .. id, kind == '' and 'score' or kind
end

local function name_of(id, kind)
    return kind == 'score' and id or id .. ':' .. kind
end

-- The tenant of a request, by its name; '' for all requests without one, which are together one more tenant.
local function tenant_of(id)
    return string.match(id, '^([^/]*)/') or ''
end

local function note(entry, text)
    local past = redis.call('HGET', entry, 'history') or ''
    local line = string.format('%.3f %s\n', now, text)
    redis.call('HSET', entry, 'history', string.sub(past .. line, -HISTORY_CHARS))
end

-- Count an event for ever: its name, and the values of its labels. No step fails because it cannot be counted.
local function count(...)
    redis.pcall('HINCRBY', COUNTS, table.concat({...}, '|'), 1)
end

-- The hash of what tenants use today, in UTC.
local function usage_today()
    return USAGE .. string.format('%d', math.floor(now / 86400))
end

-- Count what a request's tenant used. No step fails because it cannot be counted.
local function use(id, what)
    local today = usage_today()
    local used = redis.pcall('HINCRBY', today, tenant_of(id) .. '|' .. what, 1)
    if used == 1 then redis.pcall('EXPIRE', today, USAGE_S) end
end

-- Remember that an attempt at a receiver failed; '' is none. No step fails because this cannot be kept.
local function failed(receiver)
    if receiver == '' then return end
    redis.pcall('ZADD', FAILING, string.format('%.3f', now), receiver)
    redis.pcall('ZREMRANGEBYSCORE', FAILING, '-inf', string.format('%.3f', now - FAILING_S))
    redis.pcall('ZREMRANGEBYRANK', FAILING, 0, -MOST_FAILING - 1)
    redis.pcall('EXPIRE', FAILING, FAILING_S)
end

-- How often a request was tried anew after a failure.
local function tries(entry)
    return tonumber(redis.call('HGET', entry, 'retries') or 0) or 0
end

-- A table of what a JSON object says; an empty one for anything else.
local function told_by(json)
    local sound, told = pcall(cjson.decode, json)
    return sound and type(told) == 'table' and told or {}
end

-- A field of a table from JSON, if it is text; else ''.
local function word(told, field)
    local value = type(told) == 'table' and told[field]
    return type(value) == 'string' and value or ''
end

-- Take those of a list's items, which are JSON, off it for which `is_one`. Returns how many.
local function clear(list, is_one)
    if redis.call('TYPE', list).ok ~= 'list' then return 0 end
    local gone = 0
    for at = redis.call('LLEN', list) - 1, 0, -1 do
        local item = redis.call('LINDEX', list, at)
        if is_one(told_by(item)) then gone = gone + redis.call('LREM', list, 1, item) end
    end
    return gone
end

-- The list of the score queue for a priority.
local function score_list(priority)
    return priority == '0' and SCORE_QUEUE or SCORE_QUEUE .. ':' .. priority
end

-- Where a tenant's requests of a priority wait: on the list, where those at its front lie, or in the lane behind.
local function lane_of(tenant, priority)
    local place = priority .. ':' .. tenant
    return {
        list = score_list(priority), names = LANE .. place, front = FRONT .. place, tenant = tenant,
        lengths = LANES .. priority,
    }
end

-- The lengths of all lanes of a priority, by tenant: a table of names and numbers in turn.
local function lanes_of(priority)
    local found = redis.pcall('HGETALL', LANES .. priority)
    return found.err and {} or found
end

-- Whether a request waits in its lane. It has the time at which it went there, and another one once it is on the list.
local function is_laned(queued, laned)
    return queued and queued == laned
end

-- Write down how long a lane is, for who looks at the queue.
local function measure(lane)
    local length = redis.pcall('LLEN', lane.names)
    if type(length) == 'number' and length > 0 then
        redis.pcall('HSET', lane.lengths, lane.tenant, length)
    else
        redis.pcall('HDEL', lane.lengths, lane.tenant)
    end
end

-- Put a task's name at the end of a list, or in front of the name that was queued at `ahead_of`. The times at which
-- names were queued always grow along a list.
local function put(task, list, ahead_of)
    local entry, kind = split(task)
    -- Names that one script queues get times of their own; to queue one takes longer than this.
    now = now + 0.000001
    local queued = math.min(now, (ahead_of or math.huge) - 0.000001)
    redis.call('HSET', entry, kind .. '.queued', string.format('%.6f', queued))
    redis.call('ZADD', OWED, now + LOST_AFTER_S, task)
    -- A foreign key of this name would stop the script half-way. The sweep tries again.
    redis.pcall(ahead_of and 'RPUSH' or 'LPUSH', list, task)
    return queued
end

-- Have the next names of a lane go to the list, while fewer than MOST_IN_FRONT of their tenant lie there.
local function refill(lane)
    local front, moved = redis.pcall('SCARD', lane.front), false
    while type(front) == 'number' and front < MOST_IN_FRONT do
        local id = redis.pcall('RPOP', lane.names)
        if type(id) ~= 'string' then break end
        moved = true
        local told = redis.pcall('HMGET', REQUEST .. id, 'score.queued', 'score.lane')
        -- One that was answered, taken or forgotten meanwhile waits no more.
        if is_laned(told[1], told[2]) then
            redis.pcall('SADD', lane.front, id)
            put(id, lane.list)
            front = front + 1
        end
    end
    if moved then measure(lane) end
end

-- Have a request wait in its tenant's lane if the tenant has as many names on the list as it may. Returns whether it
-- does. Where keys of the lane are of another kind, there is none.
local function keep_back(id, lane)
    local front, waiting = redis.pcall('SCARD', lane.front), redis.pcall('LLEN', lane.names)
    if type(front) ~= 'number' or type(waiting) ~= 'number' then return false end
    if front < MOST_IN_FRONT and waiting == 0 then return false end
    now = now + 0.000001
    local queued = string.format('%.6f', now)
    redis.call('HSET', REQUEST .. id, 'score.queued', queued, 'score.lane', queued)
    redis.call('ZADD', OWED, now + LOST_AFTER_S, id)
    redis.pcall('HSET', lane.lengths, lane.tenant, redis.call('LPUSH', lane.names, id))
    if front < MOST_IN_FRONT then refill(lane) end
    return true
end

-- A request's name is on the list no more: its tenant's next one may lie there.
local function leave(id, priority)
    local lane = lane_of(tenant_of(id), priority)
    if redis.pcall('SREM', lane.front, id) == 1 then refill(lane) end
end

-- Queue a task: a delivery at the end of its list, a request behind those of its tenant. One that was lost goes in
-- front of the name that was queued at `ahead_of`.
local function wake(task, ahead_of)
    local entry, kind = split(task)
    if kind ~= 'score' then return put(task, DELIVER_QUEUE, ahead_of) end
    local lane = lane_of(tenant_of(task), redis.call('HGET', entry, 'priority'))
    if not ahead_of and keep_back(task, lane) then return end
    redis.pcall('SADD', lane.front, task)
    return put(task, lane.list, ahead_of)
end

-- Owe a task that has had no attempt yet.
local function owe(task)
    local entry, kind = split(task)
    redis.call('HSET', entry, kind, 0)
    wake(task)
end

-- The time at which the next name of a list or a lane was queued there, and since when it waits; math.huge if there is
-- no name, or no time is recorded.
local function oldest(list)
    if redis.call('TYPE', list).ok ~= 'list' then return math.huge, math.huge end
    local task = redis.call('LINDEX', list, -1)
    if not task or #task > 256 then return math.huge, math.huge end
    local entry, kind = split(task)
    if redis.call('TYPE', entry).ok ~= 'hash' then return math.huge, math.huge end
    local told = redis.call('HMGET', entry, kind .. '.queued', kind .. '.lane')
    local queued = tonumber(told[1] or 0) or 0
    if queued <= 0 then return math.huge, math.huge end
    return queued, tonumber(told[2] or queued) or queued
end

-- Since when the request of a priority waits that has waited longest, among those that come next; math.huge if none.
local function waits_longest(priority)
    local _, since = oldest(score_list(priority))
    local lanes = lanes_of(priority)
    for at = 1, #lanes, 2 do
        local _, laned = oldest(lane_of(lanes[at], priority).names)
        since = math.min(since, laned)
    end
    return since
end

-- Remove a finished task from its entry; with its last task, the request is settled.
local function remove(entry, kind, task, ttl)
    local told = kind == 'score' and redis.call('HMGET', entry, 'score.queued', 'priority') or {}
    redis.call('HDEL', entry, kind, kind .. '.queued', kind .. '.run', kind .. '.fair', kind .. '.lane')
    -- It was answered while its name waits.
    if told[2] and (tonumber(told[1] or 0) or 0) > 0 then leave(task, told[2]) end
    redis.call('ZREM', OWED, task)
    for _, other in ipairs({'score', 'callback', 's3'}) do
        if redis.call('HEXISTS', entry, other) == 1 then return end
    end
    if redis.call('HEXISTS', entry, 'buried') == 1 then
        redis.call('HSET', entry, 'state', 'dead')
    else
        redis.call('HSET', entry, 'state', redis.call('HEXISTS', entry, 'cancelled') == 1 and 'cancelled' or 'settled')
        count('requests_settled')
        redis.call('HDEL', entry, 'request', 'verdict')
        redis.call('EXPIRE', entry, ttl)
    end
end

-- Forget the bytes of a request's image, and count them no more, nor any that have expired. Returns whether there were
-- any. No step fails because this cannot be done: what is left expires.
local function free(id)
    local counted = redis.pcall('HMGET', IMAGE .. id, 'minute', 'bytes')
    if redis.pcall('DEL', IMAGE .. id) ~= 1 then return false end
    local minute, bytes = tonumber(counted[1]), tonumber(counted[2])
    if minute and bytes then redis.pcall('HINCRBY', IMAGES, counted[1], -bytes) end
    local minute_now, past = math.floor(now / 60), {}
    for ago = 1, 60 do past[ago] = string.format('%d', minute_now - ago) end
    redis.pcall('HDEL', IMAGES, unpack(past))
    return true
end

-- Keep a verdict, announce it, and owe its deliveries of these `kinds`. The image is needed no more.
local function publish(id, verdict, ttl, kinds)
    local entry = REQUEST .. id
    redis.call('SET', RESULT .. id, verdict, 'EX', ttl)
    free(id)
    for kind in string.gmatch(kinds, '[^,]+') do
        redis.call('HSET', entry, 'state', 'scored', 'verdict', verdict)
        owe(name_of(id, kind))
    end
    local told = told_by(verdict)
    local status, code = word(told, 'status'), word(told.error, 'code')
    note(entry, 'verdict published (' .. (code == '' and word(told, 'decision') or status .. ': ' .. code) .. ')')
    count('verdicts', status, status == 'scored' and word(told, 'decision') or '', word(told.policy, 'name'))
    if code ~= '' then count('failures', code) end
    use(id, status == 'scored' and word(told, 'decision') or 'failed')
    redis.call('PUBLISH', DONE .. id, '')
end

-- Call `act`, which works on a task's entry. If the entry is malformed, set the task aside, so that no other waits for
-- it, and return nil. Any other error of Redis fails the script.
local function try(task, act)
    local sound, found = pcall(act)
    if sound then return found end
    local why = type(found) == 'table' and found.err or found
    local no_hash = redis.call('TYPE', (split(task))).ok ~= 'hash'
    if not (no_hash and string.find(why, '^WRONGTYPE')) and not string.find(why, '^ERR hash value is not') and
            not string.find(why, 'user_script') then
        error(found)
    end
    redis.call('ZREM', OWED, task)
    redis.call('ZADD', UNREAD, now, task)
    return nil
end
