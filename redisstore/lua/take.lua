-- Takes all or nothing. KEYS: one a take; a key may stand several times.
-- ARGV: seconds and nanoseconds of a clock to use in place of the server's, or
-- '' twice; '1' to decide without taking; then 8 for each take: kind, shadow,
-- cost, burst and four that depend on the kind.
-- Returns whether it took, the clock's seconds and nanoseconds, then 4 for each
-- take: the state in which it found the count (for slots: how many are held,
-- whether by this ID, and how many are there), and whether it was allowed.

local WIDTH = 8
local dry = ARGV[3] == '1'
local now_s, now_n = clock(ARGV[1], ARGV[2])
local now_us = now_s * MEGA + floor(now_n / 1000)
local states, dirty, order, ids, leases, there = {}, {}, {}, {}, {}, {}

local function take_bucket(state, cost, burst, a)
  if cost > burst then
    return nil
  end
  local s, n = clamp(state[1], state[2], now_s, now_n)
  s, n = add(s, n, tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]))
  local most_s, most_n = add(now_s, now_n, tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8]))
  if less(most_s, most_n, s, n) then
    return nil
  end
  return {s, n, 0}
end

local function take_window(kind, state, cost, burst, a)
  if cost > burst then
    return nil
  end
  local length = tonumber(ARGV[a + 5])
  local at, used, before = roll(kind, state, now_us, length, ARGV[a + 6])
  local room = burst - used - cost
  if room < 0 then
    return nil
  end
  if kind == 's' then
    -- What of the window before is still inside counts: before*inside/length,
    -- rounded up, must fit into the room.
    local inside = math.min(at - length - now_us, length)
    if before > 0 and inside > 0 and not product_at_most(before, inside, room, length) then
      return nil
    end
  end
  return {at, used + cost, before}
end

local function take_slot(key, state, cost, burst, a)
  local id = ARGV[a + 5]
  if state[2] == 1 or cost == 0 then
    return state
  elseif state[1] >= burst then
    return nil
  end
  return {state[1] + 1, 0, 0}
end

local function find(kind, key, a)
  if kind ~= 'c' then
    states[key] = states[key] or load(kind, key)
    return states[key]
  end
  if not states[key] then
    -- What the instance holds runs, whether it is still there or not.
    there[key], ids[key] = slots_used(key), {}
    states[key] = {math.max(there[key], tonumber(ARGV[a + 7])), 0, 0}
  end
  local id, held = ARGV[a + 5], 0
  for _, taken in ipairs(ids[key]) do
    if taken == id then
      held = 1
    end
  end
  local expiry = redis.call('ZSCORE', key, id)
  if expiry and tonumber(expiry) > server_ms() then
    held = 1
  end
  return {states[key][1], held, there[key]}
end

local reply, all = {0, now_s, now_n}, true
for i, key in ipairs(KEYS) do
  local a = 3 + (i - 1) * WIDTH
  local kind, shadow = ARGV[a + 1], ARGV[a + 2] == '1'
  local cost, burst = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local found, after = find(kind, key, a), nil
  if kind == 'b' then
    after = take_bucket(found, cost, burst, a)
  elseif kind == 'c' then
    after = take_slot(key, found, cost, burst, a)
  else
    after = take_window(kind, found, cost, burst, a)
  end
  for j = 1, 3 do
    reply[#reply + 1] = found[j]
  end
  reply[#reply + 1] = after and 1 or 0
  if after and cost > 0 then
    states[key] = after
    if not dirty[key] then
      dirty[key] = kind
      order[#order + 1] = key
    end
    if kind == 'c' then
      table.insert(ids[key], ARGV[a + 5])
      leases[key] = tonumber(ARGV[a + 6])
    end
  end
  all = all and (after ~= nil or shadow)
end

if all then
  reply[1] = 1
  for _, key in ipairs(dry and {} or order) do
    if dirty[key] == 'c' then
      slots_hold(key, leases[key], ids[key])
    else
      save(dirty[key], key, states[key], now_s, now_n)
    end
  end
end
return reply
