-- Corrects counts after the fact. KEYS: one a take.
-- ARGV: seconds and nanoseconds of a clock to use in place of the server's, or
-- '' twice; then 6 for each take: kind, '-' to give back or '+' to charge, and
-- four that depend on the kind.
-- Returns the clock's seconds and nanoseconds, then 3 for each take: the state
-- that it left.

local WIDTH = 6
local now_s, now_n = clock(ARGV[1], ARGV[2])
local now_us = now_s * MEGA + floor(now_n / 1000)

local function settle_bucket(key, a)
  local state, back = load('b', key), ARGV[a + 2] == '-'
  local by_s, by_n = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  if by_s == 0 and by_n == 0 then
    return state
  end
  local s, n = clamp(state[1], state[2], now_s, now_n)
  if back then
    s, n = sub(s, n, by_s, by_n)
  else
    s, n = add(s, n, by_s, by_n)
  end
  s, n = clamp(s, n, now_s, now_n)
  save('b', key, {s, n, 0}, now_s, now_n)
  return {s, n, 0}
end

local function settle_window(kind, key, a)
  local state = load(kind, key)
  local amount, length, start = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), ARGV[a + 5]
  if amount == 0 then
    return state
  end
  local at, used, before = roll(kind, state, now_us, length, start)
  if ARGV[a + 2] == '+' then
    used = math.min(used + amount, MAX_USED)
  else
    -- Back to the window only in which it was taken.
    local of = ARGV[a + 6]
    of = of == '' and window_end(now_us, length, start) or tonumber(of)
    if kind == 'f' and of >= at or kind == 's' and of + length >= at then
      used = math.max(used - amount, 0)
    elseif kind == 's' and of + 2 * length >= at then
      before = math.max(before - amount, 0)
    end
  end
  save(kind, key, {at, used, before}, now_s, now_n)
  return {at, used, before}
end

local function settle_slot(key, a)
  if ARGV[a + 2] == '-' then
    redis.call('ZREM', key, ARGV[a + 3])
  end
  return {slots_used(key), 0, 0}
end

local reply = {now_s, now_n}
for i, key in ipairs(KEYS) do
  local a = 2 + (i - 1) * WIDTH
  local kind, state = ARGV[a + 1], nil
  if kind == 'b' then
    state = settle_bucket(key, a)
  elseif kind == 'c' then
    state = settle_slot(key, a)
  else
    state = settle_window(kind, key, a)
  end
  for j = 1, 3 do
    reply[#reply + 1] = state[j]
  end
end
return reply
