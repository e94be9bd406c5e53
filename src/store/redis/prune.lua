-- Forgets, of each kind, some of what is past its time. Returns how many went of each.
local deliveries, jobs, runners, limit = unpack(ARGV)
local function past(key, before)
  return call('ZRANGEBYSCORE', P .. key, '-inf', '(' .. before, 'LIMIT', 0, limit)
end
local ids = past('deliveries', deliveries)
if #ids > 0 then
  call('ZREM', P .. 'deliveries', unpack(ids))
end
local names = past('runners:settled', runners)
for _, name in ipairs(names) do
  remove('runners', name)
end
local done = past('jobs:settled', jobs)
for _, job in ipairs(done) do
  remove('jobs', job)
  call('HDEL', P .. 'assigned', job)
end
local unread = past('inbox:received', deliveries)
for _, entry in ipairs(unread) do
  local group, cursor, job = string.match(entry, '^(%S+) (%S+) (%S+)$')
  call('XDEL', inbox_of(group), cursor .. '-1')
  left(group, cursor, job)
end
local assigned = past('unsaved', jobs)
for _, job in ipairs(assigned) do
  call('HDEL', P .. 'assigned', job)
  call('ZREM', P .. 'unsaved', job)
end
return { #ids, #names, #done, #unread, #assigned }
