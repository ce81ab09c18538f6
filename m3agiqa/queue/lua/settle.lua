-- Record that a delivery arrived. ARGV: task, seconds to remember a settled request, the receiver, which fails no more,
-- and the object that was written ('' if none was). Returns whether the delivery was owed.
local task, ttl, receiver, object = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    redis.pcall('ZREM', FAILING, receiver)
    if redis.call('HEXISTS', entry, kind) == 0 then return 0 end
    if object ~= '' then
        redis.call('HSET', entry, 'objects', (redis.call('HGET', entry, 'objects') or '') .. object .. '\n')
    end
    note(entry, kind .. ' delivered')
    count('deliveries', kind, 'delivered')
    remove(entry, kind, task, ttl)
    return 1
end) or 0
