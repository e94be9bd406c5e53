-- Bodies and places of jobs or runners, in the order asked for: key, body, place; those that are gone are left out.
local kind = ARGV[1]
local answer = {}
for n = 2, #ARGV do
  local body = call('HGET', P .. kind, ARGV[n])
  if body then
    answer[#answer + 1] = { ARGV[n], body, call('HGET', P .. kind .. ':place', ARGV[n]) }
  end
end
return answer
