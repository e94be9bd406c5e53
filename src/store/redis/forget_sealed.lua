-- Forgets all sealed entries of a runner.
local runner = ARGV[1]
local of = P .. 'sealed_of:' .. runner
for _, key in ipairs(call('SMEMBERS', of)) do
  call('DEL', P .. 'sealed:' .. key)
end
call('DEL', of)
return 'ok'
