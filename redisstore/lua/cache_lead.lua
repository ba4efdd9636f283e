-- Asks for a lease. KEYS: one, a hash with the token of who leads (t), whether
-- somebody waits (w), and whether nobody is to lead for now (x). ARGV: the token, and
-- the lease in milliseconds.
-- Returns 1 where the token leads, 0 where another does, and -1 where nobody may.
local held = redis.call('HMGET', KEYS[1], 't', 'x')
if held[2] then
  return -1
end
if held[1] then
  return 0
end
redis.call('HSET', KEYS[1], 't', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
