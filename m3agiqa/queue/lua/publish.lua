-- Keep a verdict and owe its deliveries. ARGV: the request's id, its fingerprint, the request, the verdict, kinds of
-- deliveries, seconds to keep the verdict, id and text of a dead letter ('' if there is none), bytes of all dead
-- letters at most. Returns 1; 0 if there is a verdict already; 2 if the request is unknown, as after Redis lost its
-- data: the verdict is worth keeping all the same.
local id, content, request, verdict, kinds, ttl, letter_id, letter, most = unpack(ARGV)
local entry = REQUEST .. id
local known = redis.call('TYPE', entry).ok == 'hash'
if known and redis.call('HEXISTS', entry, 'score') == 0 then return 0 end
if redis.call('EXISTS', RESULT .. id) == 1 then
    if known then remove(entry, 'score', id, ttl) end
    return 0
end
if not known then
    redis.call('DEL', entry)
    redis.call('HSET', entry, 'request', request, 'content', content, 'priority', 0)
end
publish(id, verdict, ttl, kinds)
if letter_id ~= '' then
    keep_letter(letter_id, letter, most)
    redis.call('HINCRBY', entry, 'buried', 1)
end
remove(entry, 'score', id, ttl)
return known and 1 or 2
