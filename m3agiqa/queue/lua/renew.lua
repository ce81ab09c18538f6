-- Renew leases. ARGV: seconds of a lease, then the task and the run of each.
for at = 2, #ARGV, 2 do
    local task, lasts = ARGV[at], ARGV[at + 1]
    local entry, kind = split(task)
    try(task, function()
        local run, fair, queued = unpack(redis.call('HMGET', entry, kind .. '.run', kind .. '.fair', kind .. '.queued'))
        -- A run that has ended properly waits until its next attempt is due.
        if run == lasts and fair ~= run and queued == '0' then redis.call('ZADD', OWED, 'XX', now + ARGV[1], task) end
    end)
end
