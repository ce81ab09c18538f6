-- Answer a request that is taken back. ARGV: its id, the verdict, kinds of deliveries, seconds to keep the
-- verdict. Returns whether its score was still owed.
local id, verdict, kinds, ttl = unpack(ARGV)
local entry = REQUEST .. id
if redis.call('TYPE', entry).ok ~= 'hash' or redis.call('HEXISTS', entry, 'score') == 0 then return 0 end
local priority, queued, laned = unpack(redis.call('HMGET', entry, 'priority', 'score.queued', 'score.lane'))
local lane = lane_of(tenant_of(id), priority)
-- Searched from the end that workers take from: the request that has waited longest is likely there.
redis.pcall('LREM', is_laned(queued, laned) and lane.names or lane.list, -1, id)
measure(lane)
redis.call('HSET', entry, 'cancelled', 1)
note(entry, 'cancelled by an operator')
publish(id, verdict, ttl, kinds)
remove(entry, 'score', id, ttl)
return 1
