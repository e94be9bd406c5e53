-- The next entries of an inbox, each with its job as it is known: id, whether it is assigned, body, job, and the job's
-- body and place or nothing.
local group, after, limit = unpack(ARGV)
local answer = {}
for _, entry in ipairs(call('XRANGE', inbox_of(group), '(' .. after .. '-1', '+', 'COUNT', limit)) do
  local job = entry[2][4]
  answer[#answer + 1] = {
    entry[1], entry[2][2], entry[2][6], job,
    call('HGET', P .. 'jobs', job), call('HGET', P .. 'jobs:place', job),
  }
end
return answer
