-- Makes a live replica the owner of a group, unless another live one is.
local group, me = unpack(ARGV)
local at = now()
local expires = call('ZSCORE', P .. 'replicas', me)
if not expires or tonumber(expires) <= at then
  return 0
end
local holder = owner(group, at)
if holder and holder ~= me then
  return 0
end
call('HSET', P .. 'leases', group, me)
return 1
