-- Give a task to a worker. ARGV: task, seconds of the lease, runs lost at most, the worker's name. Returns an outcome
-- and, for 'begun' and 'poison', the run, the attempts that ended before it, request, verdict, history, and how often
-- the request was tried anew after a failure.
local task, lease, most, who = unpack(ARGV)
local entry, kind = split(task)
local found = try(task, function()
    local owed, queued, fair = unpack(redis.call('HMGET', entry, kind, kind .. '.queued', kind .. '.fair'))
    if not owed then return {'gone'} end
    -- Even if its lease is over: the sweep decides whether and when the task comes again.
    if tonumber(queued) <= 0 then return {'taken'} end
    local told = redis.call('HMGET', entry, 'request', 'verdict', 'priority', kind .. '.lane')
    local request, verdict, priority, laned = unpack(told)
    local attempts = tonumber(owed) + 0
    local run = redis.call('HINCRBY', entry, kind .. '.run', 1)
    local poison = run - 1 - tonumber(fair or 0) >= tonumber(most)
    redis.call('HSET', entry, kind .. '.queued', 0, 'state', kind == 'score' and 'fetching' or 'delivering')
    redis.call('ZADD', OWED, now + lease, task)
    if laned then redis.call('HDEL', entry, kind .. '.lane') end
    if kind == 'score' and priority then leave(task, priority) end
    note(entry, kind .. (poison and ' found to be poison by ' or ' begun by ') .. who)
    local history, retries = unpack(redis.call('HMGET', entry, 'history', 'retries'))
    local name = poison and 'poison' or 'begun'
    return {name, run, attempts, request or '', verdict or '', history, tonumber(retries or 0) or 0}
end)
return found or {'unread'}
