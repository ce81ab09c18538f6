-- Record that a delivery arrived. ARGV: task, seconds to remember a settled request, the receiver, which fails no more,
-- the object that was written ('' if none was), and which try of the request this is. Returns whether the delivery was
-- owed.
local task, ttl, receiver, object, retries = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    redis.pcall('ZREM', FAILING, receiver)
    if redis.call('HEXISTS', entry, kind) == 0 or tries(entry) ~= tonumber(retries) then return 0 end
    if object ~= '' then
        redis.call('HSET', entry, 'objects', (redis.call('HGET', entry, 'objects') or '') .. object .. '\n')
    end
    note(entry, kind .. ' delivered')
    count('deliveries', kind, 'delivered')
    remove(entry, kind, task, ttl)
    return 1
end) or 0
