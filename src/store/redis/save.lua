-- Saves what changed of a group, for its newest owner, unless a later save came before or the store went back in time.
-- `acked`: the last save, or the acquisition, that was answered to whoever asks; empty when the token is not theirs.
local group, token, seq, acked, cursor, snapshot = unpack(ARGV, 1, 6)
local newest = call('HGET', P .. 'tokens', group)
if newest ~= token then
  if acked ~= '' and (not newest or less(newest, token)) then
    return { 'forgotten' }
  end
  return { 'fenced' }
end
local last = call('HGET', P .. 'seq', group)
if acked ~= '' and (not last or less(last, acked)) then
  return { 'forgotten' }
end
if last == seq then
  return { 'ok' }
end
if last and less(seq, last) then
  return { 'late' }
end
call('HSET', P .. 'seq', group, seq)
for n = 7, #ARGV, 4 do
  local kind, key, place, body = unpack(ARGV, n, n + 3)
  local known = put(kind, key, place, body)
  if kind == 'jobs' then
    local of, _, received = string.match(place, '^(%S+) (%S+) (%S+)')
    if of ~= '-' then
      call('HSETNX', P .. 'assigned', key, of .. ' ' .. received)
    end
    if not known then
      call('ZREM', P .. 'unsaved', key)
    end
  end
end
if cursor ~= '' then
  call('HSET', P .. 'groups', group, snapshot)
  local inbox = inbox_of(group)
  repeat
    local entries = call('XRANGE', inbox, '-', cursor .. '-1', 'COUNT', 500)
    for _, entry in ipairs(entries) do
      left(group, string.match(entry[1], '^%d+'), entry[2][4])
    end
    if #entries > 0 then
      call('XTRIM', inbox, 'MINID', string.match(entries[#entries][1], '^%d+') .. '-2')
    end
  until #entries < 500
end
return { 'ok' }
