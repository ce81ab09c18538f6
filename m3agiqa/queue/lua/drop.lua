-- Forget a dead letter. ARGV: its id, its task ('' if it never became one). Returns whether it was there.
local letter, task = unpack(ARGV)
if not take_letter(letter) then return 0 end
if task ~= '' then
    local entry = split(task)
    unbury(entry, 'dropped')
end
return 1
