-- Renews a lease, or ends it. KEYS: one, see cache_lead.lua. ARGV: the token, what is
-- to be ('renew', 'end', or 'alone': nobody leads next), for how many milliseconds,
-- the channel that wakes those who wait, and what to say there.
-- Returns whether the token had the lease.
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'renew' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return 1
end
local waited = redis.call('HEXISTS', KEYS[1], 'w') == 1
redis.call('DEL', KEYS[1])
if ARGV[2] == 'alone' then
  redis.call('HSET', KEYS[1], 'x', '1')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if waited then
  redis.pcall('PUBLISH', ARGV[4], ARGV[5]) -- who may not be told looks for himself
end
return 1
