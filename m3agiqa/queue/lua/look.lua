-- Look at what waits for its score. ARGV: the bytes up to which an entry of an inbox is read, then an inbox and its
-- priority, for each. Returns the server's time, and four for each priority: entries of the inbox, names on the list
-- and in lanes, since when the oldest of those waits that come next, and when the producer says that it submitted the
-- next entry ('' if unknown).
local function length(list)
    return redis.call('TYPE', list).ok == 'list' and redis.call('LLEN', list) or 0
end

local found = {string.format('%.6f', now)}
for at = 2, #ARGV, 2 do
    local inbox, priority = ARGV[at], ARGV[at + 1]
    local entries, names, since, submitted = length(inbox), length(score_list(priority)), waits_longest(priority), ''
    local lanes = lanes_of(priority)
    for tenant = 1, #lanes, 2 do names = names + (tonumber(lanes[tenant + 1]) or 0) end
    local raw = entries > 0 and redis.call('LINDEX', inbox, -1) or ''
    if #raw <= tonumber(ARGV[1]) then submitted = word(told_by(raw), 'submitted_at') end
    found[#found + 1] = entries
    found[#found + 1] = names
    found[#found + 1] = since < math.huge and string.format('%.6f', since) or ''
    found[#found + 1] = submitted
end
return found
