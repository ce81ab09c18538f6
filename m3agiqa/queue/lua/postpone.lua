-- Put a task off. ARGV: task, run, 1 if this was an attempt, 1 if the run ended properly, seconds until the next run,
-- why, and the receiver that failed ('' if none did). Returns whether this run was the task's latest; if not, nothing
-- is done.
local task, run, attempt, fair, delay, why, receiver = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    if redis.call('HGET', entry, kind .. '.run') ~= run then return 0 end
    if attempt == '1' then redis.call('HINCRBY', entry, kind, 1) end
    if fair == '1' then redis.call('HSET', entry, kind .. '.fair', run) end
    if kind == 'score' then redis.call('HSET', entry, 'state', 'submitted') end
    redis.call('HSET', entry, kind .. '.queued', 0)
    redis.call('ZADD', OWED, now + delay, task)
    failed(receiver)
    note(entry, kind .. ' again in ' .. string.format('%.1f', delay) .. ' s: ' .. why)
    return 1
end) or 0
