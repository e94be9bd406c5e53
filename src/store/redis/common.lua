-- Every script begins with this. KEYS[1] is what all keys begin with; they share a hash tag, so that one server of a
-- cluster has them all. Numbers travel as decimal text: Lua's own are exact up to 2^53 only, which holds any time in
-- microseconds.
local P = KEYS[1]
local call = redis.call

local function now()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function text(number)
  return string.format('%.0f', number)
end

-- The inbox of a group. One is called as the set that stands beside them; no group has ':' in its name.
local function inbox_of(group)
  return P .. 'inbox:' .. group .. (group == 'received' and ':' or '')
end

-- Whether one decimal text is a smaller number than the other.
local function less(a, b)
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

-- The replica that holds a group's lease and lives; nil when there is none.
local function owner(group, at)
  local holder = call('HGET', P .. 'leases', group)
  if holder then
    local expires = call('ZSCORE', P .. 'replicas', holder)
    if expires and tonumber(expires) > at then
      return holder
    end
  end
  return nil
end

-- Jobs and runners have a place each, "group state score settled" ("-" for none), and stand in the sorted sets that
-- follow from it.
local function indices(kind, place)
  local group, state, score, settled = string.match(place, '^(%S+) (%S+) (%S+) (%S+)$')
  local found = {}
  if group then
    found[1] = { P .. kind .. ':state:' .. state, score }
    if group ~= '-' then
      found[#found + 1] = { P .. kind .. ':group:' .. group .. ':' .. state, score }
    end
    if settled ~= '-' then
      found[#found + 1] = { P .. kind .. ':settled', settled }
    end
  end
  return found
end

-- Writes an entry and moves it to its place. Returns the place it had, or false.
local function put(kind, key, place, body)
  local old = call('HGET', P .. kind .. ':place', key)
  call('HSET', P .. kind, key, body)
  if old ~= place then
    for _, index in ipairs(indices(kind, place)) do
      call('ZADD', index[1], index[2], key)
    end
    call('HSET', P .. kind .. ':place', key, place)
    if old then
      local stays = {}
      for _, index in ipairs(indices(kind, place)) do
        stays[index[1]] = true
      end
      for _, index in ipairs(indices(kind, old)) do
        if not stays[index[1]] then
          call('ZREM', index[1], key)
        end
      end
    end
  end
  return old
end

local function remove(kind, key)
  local place = call('HGET', P .. kind .. ':place', key)
  if place then
    for _, index in ipairs(indices(kind, place)) do
      call('ZREM', index[1], key)
    end
  end
  call('HDEL', P .. kind, key)
  call('HDEL', P .. kind .. ':place', key)
end

-- Puts a job that is assigned, neither saved nor waiting in an inbox, where pruning finds it.
local function unsaved(job)
  if call('HEXISTS', P .. 'jobs', job) == 0 and call('HEXISTS', P .. 'waiting', job) == 0 then
    local assigned = call('HGET', P .. 'assigned', job)
    if assigned then
      call('ZADD', P .. 'unsaved', string.match(assigned, '%S+$'), job)
    end
  end
end

-- Takes note that an entry has left an inbox.
local function left(group, cursor, job)
  call('ZREM', P .. 'inbox:received', group .. ' ' .. cursor .. ' ' .. job)
  if call('HINCRBY', P .. 'waiting', job, -1) <= 0 then
    call('HDEL', P .. 'waiting', job)
    unsaved(job)
  end
end

-- Tells every live replica but one.
local function tell_others(me, message)
  for _, id in ipairs(call('ZRANGE', P .. 'replicas', 0, -1)) do
    if id ~= me then
      call('PUBLISH', P .. 'to:' .. id, message)
    end
  end
end

-- Forgets a replica with all that it holds.
local function forget(id)
  local leases = call('HGETALL', P .. 'leases')
  for n = 1, #leases, 2 do
    if leases[n + 1] == id then
      call('HDEL', P .. 'leases', leases[n])
    end
  end
  call('HDEL', P .. 'reports', id)
  return call('ZREM', P .. 'replicas', id)
end
