-- Says that an instance lives, and returns how many do. KEYS: one. ARGV: the
-- lease in milliseconds and the instance's ID.

-- A full server refuses a script at its first write, and only if that one can need
-- memory: this one does, so that a full server does not count as back.
redis.call('ZADD', KEYS[1], 0, ARGV[2])
slots_hold(KEYS[1], tonumber(ARGV[1]), {ARGV[2]})
return slots_used(KEYS[1])
