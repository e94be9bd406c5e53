-- A group's snapshot, and the bodies of its entries in the states asked for, as of one moment.
local group = ARGV[1]
local answer = { call('HGET', P .. 'groups', group), {}, {} }
for n = 2, #ARGV, 2 do
  local kind, state = ARGV[n], ARGV[n + 1]
  local found = answer[kind == 'runners' and 2 or 3]
  for _, key in ipairs(call('ZRANGE', P .. kind .. ':group:' .. group .. ':' .. state, 0, -1)) do
    found[#found + 1] = { key, call('HGET', P .. kind, key) }
  end
end
return answer
