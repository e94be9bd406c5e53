-- Sends a message to a replica. Returns whether somebody heard it, or may have: one that listens at another node is not
-- counted here.
local to, message = unpack(ARGV)
if call('PUBLISH', P .. 'to:' .. to, 'msg ' .. message) > 0 then
  return 1
end
local expires = call('ZSCORE', P .. 'replicas', to)
return expires and tonumber(expires) > now() and 1 or 0
