-- Answer a request that an operator takes back. ARGV: its id, the verdict that says so, kinds of deliveries, seconds
-- that it is kept. Gives whether its score was owed still.
local id, verdict, kinds, ttl = unpack(ARGV)
local entry = REQUEST .. id
if redis.call('TYPE', entry).ok ~= 'hash' or redis.call('HEXISTS', entry, 'score') == 0 then return 0 end
local list = list_of(entry, 'score')
-- From the end that is next: what waits longest is taken back first.
if redis.call('TYPE', list).ok == 'list' then redis.call('LREM', list, -1, id) end
note(entry, 'cancelled by an operator')
publish(id, verdict, ttl, kinds)
remove(entry, 'score', id, ttl)
return 1
