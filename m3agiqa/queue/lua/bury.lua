-- Give a task up. ARGV: task, run, id and text of its dead letter, bytes of all of them at most. Gives whether the run
-- was its last.
local task, run, id, letter, most = unpack(ARGV)
local entry, kind = split(task)
return try(task, function()
    if redis.call('HGET', entry, kind .. '.run') ~= run then return 0 end
    keep_letter(id, letter, most)
    note(entry, kind .. ' buried')
    redis.call('HINCRBY', entry, 'buried', 1)
    remove(entry, kind, task, 0)
    return 1
end) or 0
