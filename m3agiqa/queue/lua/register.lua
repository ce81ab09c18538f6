-- Say that a worker is there. ARGV: its name, seconds until it counts as gone, and its fields and their values.
local name, ttl = ARGV[1], tonumber(ARGV[2])
redis.call('DEL', WORKER .. name)
redis.call('HSET', WORKER .. name, unpack(ARGV, 3))
redis.call('EXPIRE', WORKER .. name, ttl)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now - ttl)) do
    redis.call('ZREM', WORKERS, gone)
end
redis.call('ZADD', WORKERS, now, name)
