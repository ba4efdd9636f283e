-- Says that an instance lives, and returns how many do. KEYS: one. ARGV: the
-- lease in milliseconds and the instance's ID.
slots_hold(KEYS[1], tonumber(ARGV[1]), {ARGV[2]})
return slots_used(KEYS[1])
