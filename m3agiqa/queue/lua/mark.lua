-- Record the state of a request. ARGV: task, run, state.
local entry, kind = split(ARGV[1])
try(ARGV[1], function()
    if redis.call('HGET', entry, kind .. '.run') == ARGV[2] then redis.call('HSET', entry, 'state', ARGV[3]) end
end)
