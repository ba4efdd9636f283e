-- Writes a part of a value that is too long for one command. KEYS: where the parts
-- are gathered. ARGV: from where on, the bytes, and for how many milliseconds a
-- value stays there that nobody completes.
-- The last part comes first: it makes the value as long as it will be, at once.
redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
