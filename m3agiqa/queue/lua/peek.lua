-- Return the next entries of an inbox. ARGV: the list, entries and bytes at most, bytes of an entry at most, bytes to
-- return of a larger one. Returns size and text of each, the next one first.
local list, entries, most, largest, told = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
if redis.call('TYPE', list).ok ~= 'list' then return {} end
local found, bytes = {}, 0
for at = 1, entries do
    local raw = redis.call('LINDEX', list, -at)
    if not raw then break end
    local size = #raw
    if size > largest then raw = string.sub(raw, 1, tonumber(told)) end
    bytes = bytes + #raw
    if at > 1 and bytes > most then break end
    found[at] = {size, raw}
end
return found
