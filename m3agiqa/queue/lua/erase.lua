-- Remove all that a request left but its dead letters. ARGV: its id, seconds for which a verdict that comes late is not
-- kept, then the lists of entries for later versions. Returns whether there was an entry and a verdict, how many keys
-- of remembered scores, samples and entries on lists there were, the objects that were written, a line each, the
-- address of its image in S3, and whether there were bytes of it here.
local id, ttl = ARGV[1], ARGV[2]
local entry = REQUEST .. id

-- The name of a request, of its fields.
local function name_told(request)
    local tenant = word(request, 'tenant')
    return (tenant == '' and '' or tenant .. '/') .. word(request, 'request_id')
end

-- Take a request's items off a list; `told` finds the request in an item.
local function clear(list, told)
    if redis.call('TYPE', list).ok ~= 'list' then return 0 end
    local gone = 0
    for at = redis.call('LLEN', list) - 1, 0, -1 do
        local item = redis.call('LINDEX', list, at)
        if name_told(told(told_by(item))) == id then gone = gone + redis.call('LREM', list, 1, item) end
    end
    return gone
end

local gone = ERASED .. redis.sha1hex(id)
-- The latest try of any request that had this id.
local latest = tonumber(redis.call('GET', gone) or 0) or 0
local objects, scores, address = '', '', ''
if redis.call('TYPE', entry).ok == 'hash' then
    local found = redis.call('HMGET', entry, 'objects', 'scores', 'image')
    objects, scores, address = found[1] or '', found[2] or '', found[3] or ''
    latest = math.max(latest, tries(entry))
end
for _, kind in ipairs({'score', 'callback', 's3'}) do
    local task = name_of(id, kind)
    redis.pcall('ZREM', OWED, task)
    redis.pcall('ZREM', UNREAD, task)
    redis.pcall('LREM', DELIVER_QUEUE, 0, task)
end
for _, priority in ipairs(PRIORITIES) do
    local lane = lane_of(tenant_of(id), priority)
    redis.pcall('LREM', lane.list, 0, id)
    redis.pcall('LREM', lane.names, 0, id)
    measure(lane)
    leave(id, priority)
end
local remembered = 0
for key in string.gmatch(scores, '[^\n]+') do
    if string.sub(key, 1, #SCORES) == SCORES then remembered = remembered + redis.call('DEL', key) end
end
local samples = clear(SHADOW, function(sample) return sample.request end)
for at = 3, #ARGV do samples = samples + clear(ARGV[at], function(request) return request end) end
redis.call('SET', gone, latest + 1, 'EX', ttl)
local image = free(id) and 1 or 0
return {redis.call('DEL', entry), redis.call('DEL', RESULT .. id), remembered, samples, objects, address, image}
