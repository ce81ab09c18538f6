-- Keep a verdict and owe its deliveries. ARGV: the request's id, its fingerprint, the request, the verdict, kinds of
-- deliveries, seconds to keep the verdict, id and text of a dead letter ('' if there is none), bytes of all dead
-- letters at most, keys under which the scores may be remembered, a line each, and which try of the request this is.
-- Returns 1; 0 if there is a verdict already, the request was erased, or this is an earlier try; 2 if the request is
-- unknown, as after Redis lost its data: the verdict is worth keeping all the same.

-- Samples that wait for a shadow worker at most, their bytes, and seconds for which the last one is kept.
local MOST_SAMPLES = 500
local SAMPLE_BYTES = 65536
local SAMPLES_S = 60

-- Lay the request aside for a shadow worker, if one is there and the request is within the share that it wants. No
-- verdict fails because this cannot be done.
local function lay_aside(content, request, verdict)
    local share = redis.pcall('GET', SHADOW_SHARE)
    if type(share) ~= 'string' or #request + #verdict > SAMPLE_BYTES then return end
    -- Its bytes are gone with this step.
    if string.sub(word(told_by(request), 'image_url'), 1, 7) == 'inline:' then return end
    -- The fingerprint holds the id, so its first digits are as good as random.
    local drawn = (tonumber(string.sub(content, 1, 8), 16) or math.huge) / 2 ^ 32
    if drawn >= (tonumber(share) or 0) then return end
    local waiting = redis.pcall('LLEN', SHADOW)
    if type(waiting) ~= 'number' or waiting >= MOST_SAMPLES then return end
    redis.pcall('LPUSH', SHADOW, '{"request":' .. request .. ',"verdict":' .. verdict .. '}')
    redis.pcall('EXPIRE', SHADOW, SAMPLES_S)
end

-- Count a verdict of this minute, and forget minutes long past. No verdict fails because this cannot be done.
local RATE_S = 300
local RATE_MINUTES = 5
local function count_minute()
    local minute = math.floor(now / 60)
    if redis.pcall('HINCRBY', RATE, string.format('%d', minute), 1) ~= 1 then return end
    for past = minute - 2 * RATE_MINUTES - 1, minute - RATE_MINUTES - 1 do
        redis.pcall('HDEL', RATE, string.format('%d', past))
    end
    redis.pcall('EXPIRE', RATE, RATE_S)
end

local id, content, request, verdict, kinds, ttl, letter_id, letter, most, scores, retries = unpack(ARGV)
local entry = REQUEST .. id
local known = redis.call('TYPE', entry).ok == 'hash'
if known and (redis.call('HEXISTS', entry, 'score') == 0 or tries(entry) ~= tonumber(retries)) then return 0 end
if redis.call('EXISTS', RESULT .. id) == 1 then
    if known then remove(entry, 'score', id, ttl) end
    return 0
end
if not known and redis.call('EXISTS', ERASED .. redis.sha1hex(id)) == 1 then return 0 end
if not known then
    redis.call('DEL', entry)
    redis.call('HSET', entry, 'request', request, 'content', content, 'priority', 0)
end
if scores ~= '' then redis.call('HSET', entry, 'scores', scores) end
publish(id, verdict, ttl, kinds)
count_minute()
lay_aside(content, request, verdict)
if letter_id ~= '' then
    keep_letter(letter_id, letter, most)
    redis.call('HINCRBY', entry, 'buried', 1)
end
remove(entry, 'score', id, ttl)
return known and 1 or 2
