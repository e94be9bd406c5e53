-- Gives a group a new owner, unless another live replica holds its lease.
local group, me, instance, seq = unpack(ARGV)
local at = now()
local holder = owner(group, at)
if holder and holder ~= me then
  return { 'owned', holder }
end
local newest = call('HGET', P .. 'tokens', group)
if newest and call('HGET', P .. 'owners', group) == instance then
  local last = call('HGET', P .. 'seq', group)
  if last == seq then
    return { 'ok', newest }
  end
  if last and less(seq, last) then
    return { 'late' }
  end
end
-- By the clock, so that it is greater than any before, also after the newest writes were lost.
local token = text(math.max(tonumber(newest or '0') + 1, at))
call('SETNX', P .. 'schema', '1')
call('HSET', P .. 'seq', group, seq)
call('HSET', P .. 'owners', group, instance)
call('HSET', P .. 'tokens', group, token)
return { 'ok', token }
