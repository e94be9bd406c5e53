-- Keeps a sealed entry until its time (milliseconds since the Unix epoch), and notes which runner it is of.
local key, runner, till, body = unpack(ARGV)
local place, of = P .. 'sealed:' .. key, P .. 'sealed_of:' .. runner
if tonumber(till) * 1000 <= now() then
  call('DEL', place)
  return 'late'
end
call('SET', place, body)
call('PEXPIREAT', place, till)
call('SADD', of, key)
-- As long as the longest of them.
local left = call('PTTL', of)
if left < 0 or now() / 1000 + left < tonumber(till) then
  call('PEXPIREAT', of, till)
end
return 'ok'
