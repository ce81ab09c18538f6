-- Look at what waits for its score. ARGV: the bytes up to which an entry of an inbox is read, then an inbox and the
-- list of names for each priority. Returns the server's time, and four for each priority: entries of the inbox, names
-- on the list, when the next name was queued, and when the producer says that it submitted the next entry ('' if
-- unknown).
local function length(list)
    return redis.call('TYPE', list).ok == 'list' and redis.call('LLEN', list) or 0
end

local found = {string.format('%.6f', now)}
for at = 2, #ARGV, 2 do
    local inbox, list = ARGV[at], ARGV[at + 1]
    local entries, queued, submitted = length(inbox), oldest(list), ''
    local raw = entries > 0 and redis.call('LINDEX', inbox, -1) or ''
    if #raw <= tonumber(ARGV[1]) then submitted = word(told_by(raw), 'submitted_at') end
    found[#found + 1] = entries
    found[#found + 1] = length(list)
    found[#found + 1] = queued < math.huge and string.format('%.6f', queued) or ''
    found[#found + 1] = submitted
end
return found
