-- Remove what lies of a tenant in common lists, and its lanes; its requests are erased by themselves. ARGV: the tenant,
-- then the lists of entries for later versions. Returns how many items of common lists there were.
local tenant = ARGV[1]

local function is_its(request)
    return word(request, 'tenant') == tenant
end

for _, priority in ipairs(PRIORITIES) do
    local lane = lane_of(tenant, priority)
    redis.call('DEL', lane.names, lane.front)
    measure(lane)
end
local gone = clear(SHADOW, function(sample) return is_its(sample.request) end)
for at = 2, #ARGV do gone = gone + clear(ARGV[at], is_its) end
return gone
