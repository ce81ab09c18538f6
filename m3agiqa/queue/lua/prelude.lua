-- The beginning of every script. `m3agiqa.queue.scripts` puts the names of keys in front of it.
-- Times are of the server's clock, as the clocks of workers differ.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

-- Seconds after which a name that is on no list and with no worker counts as lost. A worker that takes a name claims
-- its task within milliseconds.
local LOST_AFTER_S = 30
-- Characters of history that are kept: some forty events.
local HISTORY_CHARS = 3000
-- Seconds for which a request whose last dead letter was dropped is remembered, so that a late copy is no new request.
local DROPPED_TTL_S = 86400
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

local function note(entry, text)
    local past = redis.call('HGET', entry, 'history') or ''
    local line = string.format('%.3f %s\n', now, text)
    redis.call('HSET', entry, 'history', string.sub(past .. line, -HISTORY_CHARS))
end

-- Count an event for ever: its name, and the values of its labels. No step fails because it cannot be counted.
local function count(...)
    redis.pcall('HINCRBY', COUNTS, table.concat({...}, '|'), 1)
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

-- The list on which a task's name waits.
local function list_of(entry, kind)
    if kind ~= 'score' then return DELIVER_QUEUE end
    local priority = redis.call('HGET', entry, 'priority')
    return priority == '0' and SCORE_QUEUE or SCORE_QUEUE .. ':' .. priority
end

-- Put a task's name at the end of its list, or in front of the name that was queued at `ahead_of`. The times at which
-- names were queued always grow along a list.
local function wake(task, ahead_of)
    local entry, kind = split(task)
    -- Names that one script queues get times of their own; to queue one takes longer than this.
    now = now + 0.000001
    local queued = math.min(now, (ahead_of or math.huge) - 0.000001)
    redis.call('HSET', entry, kind .. '.queued', string.format('%.6f', queued))
    redis.call('ZADD', OWED, now + LOST_AFTER_S, task)
    local list = list_of(entry, kind)
    local type = redis.call('TYPE', list).ok
    -- A foreign key of this name would stop the script half-way. The sweep tries again.
    if type == 'list' or type == 'none' then redis.call(ahead_of and 'RPUSH' or 'LPUSH', list, task) end
    return queued
end

-- Owe a task that has had no attempt yet.
local function owe(task)
    local entry, kind = split(task)
    redis.call('HSET', entry, kind, 0)
    wake(task)
end

-- The time at which the next name of a list was queued; math.huge if there is no name, or no time is recorded.
local function oldest(list)
    if redis.call('TYPE', list).ok ~= 'list' then return math.huge end
    local task = redis.call('LINDEX', list, -1)
    if not task or #task > 256 then return math.huge end
    local entry, kind = split(task)
    if redis.call('TYPE', entry).ok ~= 'hash' then return math.huge end
    local queued = tonumber(redis.call('HGET', entry, kind .. '.queued') or 0) or 0
    return queued > 0 and queued or math.huge
end

-- Remove a finished task from its entry; with its last task, the request is settled.
local function remove(entry, kind, task, ttl)
    redis.call('HDEL', entry, kind, kind .. '.queued', kind .. '.run', kind .. '.fair')
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

-- Count one dead letter less for a request. Returns whether it was the last.
local function fewer(entry)
    local left = (tonumber(redis.call('HGET', entry, 'buried') or 0) or 0) - 1
    if left > 0 then redis.call('HSET', entry, 'buried', left) else redis.call('HDEL', entry, 'buried') end
    return left <= 0
end

-- Record that a dead letter of a request is gone; after the last one, the request is forgotten.
local function unbury(entry, why)
    if redis.call('TYPE', entry).ok ~= 'hash' or redis.call('HEXISTS', entry, 'buried') == 0 then return end
    note(entry, why)
    if fewer(entry) and redis.call('HGET', entry, 'state') == 'dead' then
        redis.call('EXPIRE', entry, DROPPED_TTL_S)
    end
end

-- Remove a dead letter and return it; false if there is none of this id.
local function take_letter(id)
    local letter = redis.call('HGET', DEAD, id)
    if not letter then return false end
    redis.call('HDEL', DEAD, id)
    -- A letter that a stranger wrote was never counted.
    if redis.call('ZREM', DEAD_ORDER, id) == 1 then
        redis.call('INCRBY', DEAD_BYTES, -#letter)
        redis.pcall('HINCRBY', DEAD_CODES, word(told_by(letter), 'code'), -1)
    end
    return letter
end

-- Drop a dead letter that is kept no longer, and record why.
local function drop_letter(id, why)
    local task = word(told_by(take_letter(id) or ''), 'task')
    redis.call('ZREM', DEAD_ORDER, id)
    if task ~= '' then
        local entry = split(task)
        unbury(entry, why)
    end
end

-- Keep a dead letter, and drop the oldest ones while all together have more than `most` bytes. Returns its code.
local function keep_letter(id, letter, most)
    -- Letters that one script writes get times of their own.
    now = now + 0.000001
    -- An operator may have deleted the letters by hand.
    if redis.call('EXISTS', DEAD) == 0 then redis.call('DEL', DEAD_ORDER, DEAD_BYTES, DEAD_CODES) end
    redis.call('ZADD', DEAD_ORDER, now, id)
    local bytes = redis.call('INCRBY', DEAD_BYTES, #letter)
    redis.call('HSET', DEAD, id, letter)
    local made = told_by(letter)
    local code = word(made, 'code')
    redis.pcall('HINCRBY', DEAD_CODES, code, 1)
    count('dead_letters_made', word(made, 'kind'), code)
    while bytes > tonumber(most) do
        local first = redis.call('ZRANGE', DEAD_ORDER, 0, 0)[1]
        if not first or first == id then break end
        drop_letter(first, 'dead letter dropped for want of room')
        redis.call('INCR', DEAD_DROPPED)
        bytes = tonumber(redis.call('GET', DEAD_BYTES))
    end
    return code
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
