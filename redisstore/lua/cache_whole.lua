-- Puts a value in its place that has all its parts. KEYS: where the parts are, and
-- the place. ARGV: how long the value is, and for how many milliseconds it stays.
-- Returns 0 where a part is missing: the server has forgotten the first ones.
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
