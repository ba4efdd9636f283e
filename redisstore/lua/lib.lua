-- Shared by the scripts. Numbers here are doubles, exact up to 2^53, so that
-- nanoseconds since the epoch do not fit: a bucket's times are pairs of seconds
-- and nanoseconds, a window's are microseconds.

local GIGA, MEGA, DAY = 1000000000, 1000000, 86400000000
local floor, fmod, format = math.floor, math.fmod, string.format

-- A key outlives its debt by so many milliseconds: a new master's clock may be
-- behind that of the old one.
local MARGIN = 60000

-- The most that a bucket can owe, and a window have used.
local MAX_DEBT_S, MAX_DEBT_N = 2305843009, 213693951
local MAX_USED = 3999999999999996

-- The last second, and the last microsecond, of a count: in the year 2255.
local MAX_AT_S, MAX_AT = 9007199254, 9007199254740991

local function server_clock()
  local t = redis.call('TIME')
  return tonumber(t[1]), tonumber(t[2]) * 1000
end

-- The server's clock, or the one told.
local function clock(s, n)
  if s ~= '' then
    return tonumber(s), tonumber(n)
  end
  return server_clock()
end

local function server_ms()
  local s, n = server_clock()
  return s * 1000 + floor(n / MEGA)
end

local function less(s, n, s2, n2)
  return s < s2 or (s == s2 and n < n2)
end

local function add(s, n, s2, n2)
  s, n = s + s2, n + n2
  if n >= GIGA then
    s, n = s + 1, n - GIGA
  end
  return s, n
end

local function sub(s, n, s2, n2)
  s, n = s - s2, n - n2
  if n < 0 then
    s, n = s - 1, n + GIGA
  end
  return s, n
end

-- A bucket's time, not before now and not beyond the largest debt.
local function clamp(s, n, now_s, now_n)
  if less(s, n, now_s, now_n) then
    return now_s, now_n
  end
  local most_s, most_n = add(now_s, now_n, MAX_DEBT_S, MAX_DEBT_N)
  if less(most_s, most_n, s, n) then
    return most_s, most_n
  end
  return s, n
end

-- a*b as limbs of 52 and twice 26 bits, for a and b below 2^52.
local LIMB = 67108864
local function product(a, b)
  local ah, bh = floor(a / LIMB), floor(b / LIMB)
  local al, bl = a - ah * LIMB, b - bh * LIMB
  local low = al * bl
  local carry = floor(low / LIMB)
  local mid = ah * bl + al * bh + carry
  local mid_carry = floor(mid / LIMB)
  return ah * bh + mid_carry, mid - mid_carry * LIMB, low - carry * LIMB
end

local function product_at_most(a, b, c, d)
  local h, m, l = product(a, b)
  local h2, m2, l2 = product(c, d)
  if h ~= h2 then
    return h < h2
  elseif m ~= m2 then
    return m < m2
  end
  return l <= l2
end

-- The calendar: Howard Hinnant, chrono-compatible low-level date algorithms.
local function first_day(y, m)
  if m > 12 then
    y, m = y + 1, m - 12
  end
  local shifted = m - 3
  if m <= 2 then
    y, shifted = y - 1, m + 9
  end
  local era = floor(y / 400)
  local yoe = y - era * 400
  local doe = yoe * 365 + floor(yoe / 4) - floor(yoe / 100) + floor((153 * shifted + 2) / 5)
  return era * 146097 + doe - 719468
end

local function year_month(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local mp = floor((5 * (doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))) + 2) / 153)
  if mp < 10 then
    return yoe + era * 400, mp + 3
  end
  return yoe + era * 400 + 1, mp - 9
end

-- When the aligned window of now ends. start is where windows are counted from,
-- or the name of a window of the calendar.
local function window_end(now, length, start)
  if start == 'month' or start == 'year' then
    local y, m = year_month(floor(now / DAY))
    if start == 'year' then
      return first_day(y + 1, 1) * DAY
    end
    return first_day(y, m + 1) * DAY
  end
  return now - fmod(now - tonumber(start), length) + length
end

-- A window's state, brought up to now. It never goes back.
local function roll(kind, state, now, length, start)
  local at, used, before = state[1], state[2], state[3]
  local ahead = 0
  if kind == 's' then
    ahead = length
  end
  if at <= now then
    return window_end(now, length, start) + ahead, 0, 0
  elseif kind == 's' and at - length <= now then
    return window_end(now, length, start) + ahead, 0, used
  end
  return at, used, before
end

-- A count that is none of ours, by its form or its numbers, is as if absent:
-- the next write replaces it.
local function load(kind, key)
  local text = redis.call('GET', key) or ''
  if kind == 'b' then
    local s, n = string.match(text, '^(%d+)%.(%d%d%d%d%d%d%d%d%d)$')
    s, n = tonumber(s or 0), tonumber(n or 0)
    if s > MAX_AT_S then
      return {0, 0, 0}
    end
    return {s, n, 0}
  end
  local at, used, before = string.match(text, '^(%d+) (%d+) (%d+)$')
  at, used, before = tonumber(at or 0), tonumber(used or 0), tonumber(before or 0)
  if at > MAX_AT or used > MAX_USED or before > MAX_USED then
    return {0, 0, 0}
  end
  return {at, used, before}
end

-- Writes a state with the time for which it means something, or removes it.
local function save(kind, key, state, now_s, now_n)
  local text, left
  if kind == 'b' then
    if not less(now_s, now_n, state[1], state[2]) then
      redis.call('DEL', key)
      return
    end
    local s, n = sub(state[1], state[2], now_s, now_n)
    text, left = format('%.0f.%09.0f', state[1], state[2]), s * 1000 + floor(n / MEGA) + 1
  else
    if state[2] == 0 and state[3] == 0 then
      redis.call('DEL', key)
      return
    end
    text = format('%.0f %.0f %.0f', state[1], state[2], state[3])
    left = math.max(floor(state[1] / 1000) - (now_s * 1000 + floor(now_n / MEGA)) + 1, 0)
  end
  redis.call('SET', key, text, 'PX', format('%.0f', left + MARGIN))
end

-- Slots go by the server's clock always: instances must agree which are held.
local function slots_used(key)
  return redis.call('ZCOUNT', key, format('(%.0f', server_ms()), '+inf')
end

local function slots_hold(key, lease, ids)
  local now = server_ms()
  redis.call('ZREMRANGEBYSCORE', key, '-inf', format('%.0f', now))
  for _, id in ipairs(ids) do
    redis.call('ZADD', key, format('%.0f', now + lease), id)
  end
  redis.call('PEXPIRE', key, format('%.0f', lease + MARGIN))
end
