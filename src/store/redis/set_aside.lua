-- Moves an entry that cannot be read out of the way, unless it was replaced meanwhile.
local kind, key, group, reason, found, kept = unpack(ARGV)
local inbox = inbox_of(group)
local body, entry
if kind == 'inbox' then
  entry = call('XRANGE', inbox, key .. '-1', key .. '-1')[1]
  body = entry and entry[2][6]
else
  body = call('HGET', P .. kind, key)
end
if body ~= found then
  return 0
end
call('XADD', P .. 'set_aside', 'MAXLEN', 1000, '*', 'kind', kind, 'key', key, 'group', group, 'reason', reason, 'body', kept)
if kind == 'inbox' then
  call('XDEL', inbox, key .. '-1')
  left(group, key, entry[2][4])
elseif kind == 'groups' then
  call('HDEL', P .. 'groups', key)
else
  remove(kind, key)
  if kind == 'jobs' then
    unsaved(key)
  end
end
return 1
