-- Move the next entries of an inbox into the ledger. ARGV: the list, its priority, the list of entries for later
-- versions, seconds to keep a verdict, bytes of all dead letters at most; then thirteen for each entry: its size, its
-- text as `peek` returned it, and what to do with it,
--     'owe', id, fingerprint, request, the verdict beyond its tenant's limits, kinds of deliveries, '1' to try a failed
--     one anew, its batch, the image's address if in S3, how many of its tenant may wait and may come a day ('' for any
--     number);
--     'dead', id of the request to answer or '', fingerprint, request, verdict, kinds of deliveries, id and text of the
--     letter, and three times '';
--     'newer', and ten times ''.
-- Returns how many were moved, and whether the next entry conflicts: its id stands for another request. It stays there.
local list, priority, later, ttl, most = unpack(ARGV, 1, 5)

-- Whether a request is over and was not scored, so that it may be tried anew. One that workers gave up is not over.
local function has_failed(entry, id)
    local state = redis.call('HGET', entry, 'state')
    if state ~= 'settled' and state ~= 'cancelled' then return false end
    local verdict = redis.pcall('GET', RESULT .. id)
    return type(verdict) == 'string' and word(told_by(verdict), 'status') == 'failed'
end

local function number(found)
    return tonumber(type(found) == 'table' and 0 or found or 0) or 0
end

-- The limit that a request's tenant has reached, in words; nil if none.
local function limit_reached(id, most_waiting, most_a_day)
    local tenant, waiting = tenant_of(id), 0
    if most_waiting ~= '' then
        for _, step in ipairs(PRIORITIES) do
            local lane = lane_of(tenant, step)
            waiting = waiting + number(redis.pcall('SCARD', lane.front)) + number(redis.pcall('LLEN', lane.names))
        end
        if waiting >= tonumber(most_waiting) then return most_waiting .. ' of its tenant may wait' end
    end
    if most_a_day ~= '' then
        local admitted = number(redis.pcall('HGET', usage_today(), tenant .. '|admitted'))
        if admitted >= tonumber(most_a_day) then return most_a_day .. ' of its tenant may come a day' end
    end
end

-- Begin a request, or answer it if its tenant has `reached` a limit. Runs of a later try have numbers of their own, so
-- that none of an earlier one counts as the latest.
local function begin(entry, id, request, event, answer, kinds, reached)
    local first = 1000 * tries(entry)
    if first > 0 then
        for _, kind in ipairs({'score', 'callback', 's3'}) do
            redis.call('HSET', entry, kind .. '.run', first, kind .. '.fair', first)
        end
    end
    redis.call('HSET', entry, 'state', 'submitted', 'priority', priority, 'request', request)
    if reached then
        note(entry, 'refused: ' .. reached)
        count('requests_refused', word(told_by(answer).error, 'code'))
        publish(id, answer, ttl, kinds)
        remove(entry, 'score', id, ttl)
        return
    end
    owe(id)
    note(entry, event)
    count('requests_admitted', priority)
    use(id, 'admitted')
end

local moved = 0
for at = 6, #ARGV, 13 do
    local size, text, what, id, content, request, verdict, kinds = unpack(ARGV, at, at + 7)
    local raw = redis.call('LINDEX', list, -1)
    -- Another worker has moved it.
    if not raw or #raw ~= tonumber(size) or string.sub(raw, 1, #text) ~= text then break end
    local entry = REQUEST .. id
    local kind = id == '' and 'none' or redis.call('TYPE', entry).ok
    if what == 'owe' then
        local retry, batch, image, most_waiting, most_a_day = unpack(ARGV, at + 8, at + 12)
        if kind == 'none' then
            local reached = limit_reached(id, most_waiting, most_a_day)
            redis.call('HSET', entry, 'content', content)
            -- What a worker still makes of an erased request of this id is no answer to this one.
            local erased = redis.pcall('GET', ERASED .. redis.sha1hex(id))
            if type(erased) == 'string' then redis.call('HSET', entry, 'retries', tonumber(erased) or 1) end
            if batch ~= '' then redis.call('HSET', entry, 'batch', batch) end
            if image ~= '' then redis.call('HSET', entry, 'image', image) end
            begin(entry, id, request, 'admitted', verdict, kinds, reached)
        elseif kind ~= 'hash' or redis.call('HGET', entry, 'content') ~= content then
            return {moved, 1}
        -- A worker that lacks the right to PERSIST tries nothing anew, and goes on with the inbox.
        elseif retry == '1' and has_failed(entry, id) and redis.pcall('PERSIST', entry) == 1 then
            local reached = limit_reached(id, most_waiting, most_a_day)
            redis.call('DEL', RESULT .. id)
            redis.call('HDEL', entry, 'cancelled')
            redis.call('HSET', entry, 'retries', tries(entry) + 1)
            begin(entry, id, request, 'tried anew, as its producer asked', verdict, kinds, reached)
        -- Whoever submits a request again sends its image again, and this one is over.
        elseif redis.call('HEXISTS', entry, 'score') == 0 and redis.call('HEXISTS', entry, 'buried') == 0 then
            free(id)
        end
    elseif what == 'dead' then
        local letter_id, letter = unpack(ARGV, at + 8, at + 9)
        count('requests_refused', keep_letter(letter_id, letter, most))
        if id ~= '' and kind == 'none' and redis.call('EXISTS', RESULT .. id) == 0 then
            redis.call('HSET', entry, 'priority', priority, 'content', content, 'request', request)
            note(entry, 'refused')
            publish(id, verdict, ttl, kinds)
            remove(entry, 'score', id, ttl)
        end
    else
        redis.call('LPUSH', later, raw)
    end
    redis.call('RPOP', list)
    moved = moved + 1
end
return {moved, 0}
