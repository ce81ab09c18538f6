-- Record that a request reached a state, and why. ARGV: task, run, state, what happened.
local entry, kind = split(ARGV[1])
try(ARGV[1], function()
    if redis.call('HGET', entry, kind .. '.run') ~= ARGV[2] then return end
    redis.call('HSET', entry, 'state', ARGV[3])
    note(entry, ARGV[4])
end)
