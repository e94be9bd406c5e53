-- Gives a group up, if it is this replica's.
local group, me = unpack(ARGV)
if call('HGET', P .. 'leases', group) ~= me then
  return 0
end
call('HDEL', P .. 'leases', group)
tell_others(me, 'changed')
return 1
