-- Dead letters: what every script behind prelude.lua may do with them.
-- Seconds for which a request whose last dead letter was dropped is remembered, so that a late copy is no new request.
local DROPPED_TTL_S = 86400

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
