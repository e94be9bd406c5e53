-- Looks whether the keys hold what they should, and, if asked, writes something. Returns the schema's version and, when
-- a key holds something else, its name, what it holds and what it should.
for _, key in ipairs({
  { 'schema', 'string' }, { 'cursor', 'string' }, { 'probe', 'string' }, { 'acknowledged', 'string' },
  { 'deliveries', 'zset' }, { 'inbox:received', 'zset' }, { 'unsaved', 'zset' }, { 'replicas', 'zset' },
  { 'jobs:settled', 'zset' }, { 'runners:settled', 'zset' },
  { 'assigned', 'hash' }, { 'waiting', 'hash' }, { 'jobs', 'hash' }, { 'jobs:place', 'hash' },
  { 'runners', 'hash' }, { 'runners:place', 'hash' }, { 'groups', 'hash' }, { 'tokens', 'hash' },
  { 'seq', 'hash' }, { 'owners', 'hash' }, { 'leases', 'hash' }, { 'reports', 'hash' },
  { 'set_aside', 'stream' },
}) do
  local found = call('TYPE', P .. key[1]).ok
  if found ~= 'none' and found ~= key[2] then
    return { '', P .. key[1], found, key[2] }
  end
end
if ARGV[1] == 'write' then
  call('SETNX', P .. 'schema', '1')
  call('SET', P .. 'probe', text(now()))
end
return { call('GET', P .. 'schema') or '' }
