-- A replica says that it lives; those whose time is over are forgotten. Returns who lives, with reports, and the leases.
local me, lease, report = unpack(ARGV)
local at = now()
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'replicas', '-inf', text(at))) do
  forget(id)
end
-- A time further ahead than a lease is from before this server's clock was set back: it counts from now.
local latest = text(at + tonumber(lease))
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'replicas', '(' .. latest, '+inf')) do
  call('ZADD', P .. 'replicas', latest, id)
end
local new = call('ZADD', P .. 'replicas', latest, me) == 1
call('HSET', P .. 'reports', me, report)
call('PUBLISH', P .. 'to:' .. me, 'beat')
if new then
  tell_others(me, 'changed')
end
local live = {}
for _, id in ipairs(call('ZRANGE', P .. 'replicas', 0, -1)) do
  live[#live + 1] = { id, call('HGET', P .. 'reports', id) or '' }
end
local owners = {}
local leases = call('HGETALL', P .. 'leases')
for n = 1, #leases, 2 do
  if call('ZSCORE', P .. 'replicas', leases[n + 1]) then
    owners[#owners + 1] = { leases[n], leases[n + 1] }
  else
    call('HDEL', P .. 'leases', leases[n])
  end
end
return { live, owners }
