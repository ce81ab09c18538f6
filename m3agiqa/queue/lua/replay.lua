-- Put a dead letter back. ARGV: its id, its task ('' if it never became one), its inbox, and its text.
-- Returns 1; 0 if it is gone; -1 if its request has a verdict, which stands; -2 if its request is forgotten.
local id, task, inbox, text = unpack(ARGV)
if task == '' then
    if not take_letter(id) then return 0 end
    redis.call('LPUSH', inbox, text)
    return 1
end
local entry, kind = split(task)
if kind == 'score' and redis.call('EXISTS', RESULT .. task) == 1 then return -1 end
if redis.call('TYPE', entry).ok ~= 'hash' then return -2 end
if redis.call('HEXISTS', entry, 'request') == 0 or redis.call('HEXISTS', entry, 'priority') == 0 then return -2 end
if not take_letter(id) then return 0 end
redis.call('PERSIST', entry)
redis.call('HSET', entry, 'state', kind == 'score' and 'submitted' or 'scored')
fewer(entry)
owe(task)
note(entry, kind .. ' replayed')
return 1
