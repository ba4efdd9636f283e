-- Says that somebody waits for a lease to end. KEYS: one, see cache_lead.lua.
-- Returns for how many milliseconds the lease lasts, unless it is renewed; 0 where
-- nobody leads.
if redis.call('HEXISTS', KEYS[1], 't') == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'w', '1')
return math.max(redis.call('PTTL', KEYS[1]), 1)
