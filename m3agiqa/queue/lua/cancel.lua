-- Answer a request that is taken back. ARGV: its id, the verdict, kinds of deliveries, seconds to keep the
-- verdict. Returns whether its score was still owed.
local id, verdict, kinds, ttl = unpack(ARGV)
local entry = REQUEST .. id
if redis.call('TYPE', entry).ok ~= 'hash' or redis.call('HEXISTS', entry, 'score') == 0 then return 0 end
local list = list_of(entry, 'score')
-- Searched from the end that workers take from: the request that has waited longest is likely there.
if redis.call('TYPE', list).ok == 'list' then redis.call('LREM', list, -1, id) end
redis.call('HSET', entry, 'cancelled', 1)
note(entry, 'cancelled by an operator')
publish(id, verdict, ttl, kinds)
remove(entry, 'score', id, ttl)
return 1
