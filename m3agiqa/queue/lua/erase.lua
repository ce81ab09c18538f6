-- Remove all that a request left but its dead letters. ARGV: its id, seconds for which a verdict that comes late is not
-- kept, then the lists of entries for later versions. Returns whether there was an entry and a verdict, how many keys
-- of remembered scores, samples and entries on lists there were, the objects that were written, a line each, the
-- address of its image in S3, and whether there were bytes of it here.
local id, ttl = ARGV[1], ARGV[2]
local entry = REQUEST .. id

local function is_it(request)
    local tenant = word(request, 'tenant')
    return (tenant == '' and '' or tenant .. '/') .. word(request, 'request_id') == id
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
local samples = clear(SHADOW, function(sample) return is_it(sample.request) end)
for at = 3, #ARGV do samples = samples + clear(ARGV[at], is_it) end
redis.call('SET', gone, latest + 1, 'EX', ttl)
local image = free(id) and 1 or 0
return {redis.call('DEL', entry), redis.call('DEL', RESULT .. id), remembered, samples, objects, address, image}
