-- Records a delivery once, for the group of its job and the group of its runner.
local id, received, job, body, group, runner_group, me, place, unmatched = unpack(ARGV)
if call('ZSCORE', P .. 'deliveries', id) then
  return { 'duplicate' }
end
local at = now()
local assigned = call('HGET', P .. 'assigned', job)
local new = not assigned and group ~= ''
if assigned then
  group = string.match(assigned, '^%S+')
end
local cursor = text(math.max(tonumber(call('GET', P .. 'cursor') or '0') + 1, at))
-- What can fail comes first, the id last: a delivery that failed halfway is recorded when it comes again.
call('SET', P .. 'cursor', cursor)
local answer = { 'new' }
local function append(to, serves)
  call('XADD', inbox_of(to), cursor .. '-1', 'assigned', serves, 'job', job, 'body', body)
  call('ZADD', P .. 'inbox:received', received, to .. ' ' .. cursor .. ' ' .. job)
  if call('HINCRBY', P .. 'waiting', job, 1) == 1 then
    call('ZREM', P .. 'unsaved', job)
  end
  answer[#answer + 1] = to
end
if group ~= '' then
  append(group, '1')
end
if runner_group ~= '' and runner_group ~= group then
  append(runner_group, '0')
end
if new or (group == '' and unmatched ~= '') then
  local known = call('HGET', P .. 'jobs:place', job)
  local ours = known and string.sub(known, 1, 2) ~= '- '
  if new then
    call('HSET', P .. 'assigned', job, group .. ' ' .. received)
    if known and not ours then
      remove('jobs', job)
    end
  elseif not ours then
    put('jobs', job, place, unmatched)
  end
end
call('ZADD', P .. 'deliveries', received, id)
for n = 2, #answer do
  local holder = owner(answer[n], at)
  if holder and holder ~= me then
    call('PUBLISH', P .. 'to:' .. holder, 'poke ' .. answer[n])
  end
end
return answer
