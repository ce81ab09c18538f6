-- Record that a delivery arrived. ARGV: task, seconds to remember a settled request, and the receiver, which fails no
-- more. Returns whether the delivery was owed.
local task, ttl, receiver = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    redis.pcall('ZREM', FAILING, receiver)
    if redis.call('HEXISTS', entry, kind) == 0 then return 0 end
    note(entry, kind .. ' delivered')
    count('deliveries', kind, 'delivered')
    remove(entry, kind, task, ttl)
    return 1
end) or 0
