-- What all scripts share, in front of each. `m3agiqa.queue.scripts` puts the names of keys before it.
-- The server's clock decides: those of workers differ.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

-- Seconds a name may be on no list and with no worker before it counts as lost on its way. Taking one to writing that
-- down is a matter of milliseconds.
local LOST_AFTER_S = 30
-- Characters of history kept: some forty events.
local HISTORY_CHARS = 3000
-- Seconds a request is remembered whose last dead letter was dropped, so that a late copy is not taken for a new one.
local DROPPED_TTL_S = 86400

-- A task's entry, and its kind: score, callback or s3.
local function split(task)
    local id, kind = string.match(task, '^([^:]*):?(.*)$')
    return REQUEST .. id, kind == '' and 'score' or kind
end

local function name_of(id, kind)
    return kind == 'score' and id or id .. ':' .. kind
end

local function note(entry, text)
    local past = redis.call('HGET', entry, 'history') or ''
    local line = string.format('%.3f %s\n', now, text)
    redis.call('HSET', entry, 'history', string.sub(past .. line, -HISTORY_CHARS))
end

-- The list on which a task's name waits.
local function list_of(entry, kind)
    if kind ~= 'score' then return DELIVER_QUEUE end
    local priority = redis.call('HGET', entry, 'priority')
    return priority == '0' and SCORE_QUEUE or SCORE_QUEUE .. ':' .. priority
end

-- Put a task's name on its list, as the last, or in front of one that was queued at `ahead_of`: along a list, these
-- times always grow.
local function wake(task, ahead_of)
    local entry, kind = split(task)
    -- What one script queues has an order as well; each of them takes longer than this.
    now = now + 0.000001
    local queued = math.min(now, (ahead_of or math.huge) - 0.000001)
    redis.call('HSET', entry, kind .. '.queued', string.format('%.6f', queued))
    redis.call('ZADD', OWED, now + LOST_AFTER_S, task)
    local list = list_of(entry, kind)
    local type = redis.call('TYPE', list).ok
    -- Or a key of somebody else's would stop a script half-way. The sweep looks again.
    if type == 'list' or type == 'none' then redis.call(ahead_of and 'RPUSH' or 'LPUSH', list, task) end
    return queued
end

-- Owe a task, with all its attempts.
local function owe(task)
    local entry, kind = split(task)
    redis.call('HSET', entry, kind, 0)
    wake(task)
end

-- When the name that is taken next was put on its list; math.huge if there is none, or nobody wrote it down.
local function oldest(list)
    if redis.call('TYPE', list).ok ~= 'list' then return math.huge end
    local task = redis.call('LINDEX', list, -1)
    if not task or #task > 200 then return math.huge end
    local entry, kind = split(task)
    if redis.call('TYPE', entry).ok ~= 'hash' then return math.huge end
    local queued = tonumber(redis.call('HGET', entry, kind .. '.queued') or 0) or 0
    return queued > 0 and queued or math.huge
end

-- Take a task that is done with from its entry, and settle the request with its last one.
local function remove(entry, kind, task, ttl)
    redis.call('HDEL', entry, kind, kind .. '.queued', kind .. '.run', kind .. '.fair')
    redis.call('ZREM', OWED, task)
    for _, other in ipairs({'score', 'callback', 's3'}) do
        if redis.call('HEXISTS', entry, other) == 1 then return end
    end
    if redis.call('HEXISTS', entry, 'buried') == 1 then
        redis.call('HSET', entry, 'state', 'dead')
    else
        redis.call('HSET', entry, 'state', 'settled')
        redis.call('HDEL', entry, 'request', 'verdict')
        redis.call('EXPIRE', entry, ttl)
    end
end

-- Count one dead letter less for a request. Gives whether that was its last.
local function fewer(entry)
    local left = (tonumber(redis.call('HGET', entry, 'buried') or 0) or 0) - 1
    if left > 0 then redis.call('HSET', entry, 'buried', left) else redis.call('HDEL', entry, 'buried') end
    return left <= 0
end

-- One dead letter less for a request; it is forgotten after its last.
local function unbury(entry, why)
    if redis.call('TYPE', entry).ok ~= 'hash' or redis.call('HEXISTS', entry, 'buried') == 0 then return end
    note(entry, why)
    if fewer(entry) and redis.call('HGET', entry, 'state') == 'dead' then
        redis.call('EXPIRE', entry, DROPPED_TTL_S)
    end
end

-- Take a dead letter away; false if there is none of this id.
local function take_letter(id)
    local letter = redis.call('HGET', DEAD, id)
    if not letter then return false end
    redis.call('HDEL', DEAD, id)
    -- What a stranger put there was never counted.
    if redis.call('ZREM', DEAD_ORDER, id) == 1 then redis.call('INCRBY', DEAD_BYTES, -#letter) end
    return letter
end

-- Keep a dead letter, and drop the oldest ones where all of them are more than `most` bytes.
local function keep_letter(id, letter, most)
    -- What one script gives up has an order as well.
    now = now + 0.000001
    -- Somebody may have deleted them by hand.
    if redis.call('EXISTS', DEAD) == 0 then redis.call('DEL', DEAD_ORDER, DEAD_BYTES) end
    redis.call('ZADD', DEAD_ORDER, now, id)
    local bytes = redis.call('INCRBY', DEAD_BYTES, #letter)
    redis.call('HSET', DEAD, id, letter)
    while bytes > tonumber(most) do
        local first = redis.call('ZRANGE', DEAD_ORDER, 0, 0)[1]
        if not first or first == id then break end
        local dropped = take_letter(first)
        redis.call('ZREM', DEAD_ORDER, first)
        redis.call('INCR', DEAD_DROPPED)
        bytes = tonumber(redis.call('GET', DEAD_BYTES))
        local sound, told = pcall(cjson.decode, dropped or '')
        if sound and type(told) == 'table' and type(told.task) == 'string' then
            local entry = split(told.task)
            unbury(entry, 'dead letter dropped for want of room')
        end
    end
end

-- Keep a verdict, announce it, and owe its deliveries, which are named in `kinds`.
local function publish(id, verdict, ttl, kinds)
    local entry = REQUEST .. id
    redis.call('SET', RESULT .. id, verdict, 'EX', ttl)
    for kind in string.gmatch(kinds, '[^,]+') do
        redis.call('HSET', entry, 'state', 'scored', 'verdict', verdict)
        owe(name_of(id, kind))
    end
    note(entry, 'verdict published')
    redis.call('PUBLISH', DONE .. id, '')
end

-- Do something with a task's entry. One that cannot be understood is set aside, so that no other waits for it;
-- then, nil. What Redis itself refuses is its own matter, and fails the script.
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
