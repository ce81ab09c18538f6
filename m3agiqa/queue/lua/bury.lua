-- Give a task up. ARGV: task, run, id and text of its dead letter, bytes of all dead letters at most, and the receiver
-- that failed ('' if none did). Returns whether this run was the task's latest; if not, nothing is done.
local task, run, id, letter, most, receiver = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    if redis.call('HGET', entry, kind .. '.run') ~= run then return 0 end
    keep_letter(id, letter, most)
    note(entry, kind .. ' buried')
    failed(receiver)
    if kind ~= 'score' then count('deliveries', kind, 'dead') end
    redis.call('HINCRBY', entry, 'buried', 1)
    remove(entry, kind, task, 0)
    return 1
end) or 0
