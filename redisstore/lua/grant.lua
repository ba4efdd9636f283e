-- Grants units in advance. KEYS: two a grant: the count, and how far is lent of it.
-- ARGV: seconds and nanoseconds of a clock to use in place of the server's, or ''
-- twice; then 12 for each grant: '-' for units given back or '+' for charged ones,
-- cost, want, burst, and as seconds and nanoseconds what those are worth, the
-- interval, the slack and the capacity.
-- Returns the clock's seconds and nanoseconds, then 5 for each grant: the pairs in
-- which it found the count and what is lent, and the units granted.
-- The steps are those of Policy.Lend in package ratelimit, which says why.

local WIDTH = 12
local MAX_DEBT_S, MAX_DEBT_N = 2305843009, 213693951
local FREE_SHARE, NEAR_SHARE, AHEAD_SHARE, AHEAD_SLACKS = 8, 32, 4, 2
local now_s, now_n = clock(ARGV[1], ARGV[2])

local function double(s, n)
  return s * GIGA + n
end

local function latest(s, n, s2, n2)
  if less(s, n, s2, n2) then
    return s2, n2
  end
  return s, n
end

local function earliest(s, n, s2, n2)
  if less(s, n, s2, n2) then
    return s, n
  end
  return s2, n2
end

-- units times a pair. units are at most 2^23, so that all stays exact.
local function times(units, s, n)
  local product = units * n
  local rest = fmod(product, GIGA)
  return units * s + (product - rest) / GIGA, rest
end

local function settled(s, n, back, by_s, by_n)
  local most_s, most_n = add(now_s, now_n, MAX_DEBT_S, MAX_DEBT_N)
  s, n = latest(s, n, now_s, now_n)
  s, n = earliest(s, n, most_s, most_n)
  if back then
    s, n = sub(s, n, by_s, by_n)
  else
    s, n = add(s, n, by_s, by_n)
  end
  s, n = latest(s, n, now_s, now_n)
  return earliest(s, n, most_s, most_n)
end

-- eligible and valid count from now.
local function units_of(g, eligible_s, eligible_n, valid_s, valid_n)
  if g.cost == 0 or less(valid_s, valid_n, eligible_s, eligible_n) then
    return 0
  end
  local eligible, interval = double(eligible_s, eligible_n), double(g.interval_s, g.interval_n)
  local free = floor((interval - eligible) / interval)
  local room = floor((AHEAD_SLACKS * double(g.slack_s, g.slack_n) + interval - eligible) / interval)
  if g.cost > room then
    return 0
  end
  local more = floor(free / FREE_SHARE)
  if free < math.max(g.cost, floor(g.burst / NEAR_SHARE)) then
    more = floor(room / AHEAD_SHARE)
  end
  return math.min(math.max(g.cost, math.min(g.want, more)), room)
end

local function grant(count, lent_key, g)
  local found, found_lent = load('b', count), load('b', lent_key)
  local lent_s, lent_n = latest(found_lent[1], found_lent[2], now_s, now_n)
  local s, n = latest(found[1], found[2], lent_s, lent_n)
  if g.owed_s > 0 or g.owed_n > 0 then
    s, n = settled(s, n, g.back, g.owed_s, g.owed_n)
    s, n = latest(s, n, lent_s, lent_n)
  end
  local eligible_s, eligible_n = sub(s, n, now_s, now_n)
  eligible_s, eligible_n = add(eligible_s, eligible_n, g.interval_s, g.interval_n)
  eligible_s, eligible_n = sub(eligible_s, eligible_n, g.capacity_s, g.capacity_n)
  local valid_s, valid_n = sub(lent_s, lent_n, now_s, now_n)
  valid_s, valid_n = add(valid_s, valid_n, g.slack_s, g.slack_n)
  local units = units_of(g, eligible_s, eligible_n, valid_s, valid_n)
  if units > 0 then
    local by_s, by_n = times(units, g.interval_s, g.interval_n)
    s, n = add(s, n, by_s, by_n)
    lent_s, lent_n = add(lent_s, lent_n, by_s, by_n)
    save('b', lent_key, {lent_s, lent_n, 0}, now_s, now_n)
  end
  if units > 0 or g.owed_s > 0 or g.owed_n > 0 then
    save('b', count, {s, n, 0}, now_s, now_n)
  end
  return found, found_lent, units
end

local reply = {now_s, now_n}
for i = 1, #KEYS / 2 do
  local a = 2 + (i - 1) * WIDTH
  local function number(j)
    return tonumber(ARGV[a + j])
  end
  local found, lent, units = grant(KEYS[2 * i - 1], KEYS[2 * i], {
    back = ARGV[a + 1] == '-', cost = number(2), want = number(3), burst = number(4),
    owed_s = number(5), owed_n = number(6), interval_s = number(7), interval_n = number(8),
    slack_s = number(9), slack_n = number(10), capacity_s = number(11), capacity_n = number(12),
  })
  for _, v in ipairs({found[1], found[2], lent[1], lent[2], units}) do
    reply[#reply + 1] = v
  end
end
return reply
