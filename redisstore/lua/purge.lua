-- Adds a purge. KEYS: one, a hash with the number of the newest purge (=seq), below
-- which number all is purged (=floor), which log this is (=log), and for each label,
-- behind a colon, the number of its last purge. ARGV: the number that the caller
-- wants a larger one than, the newest that the log gave as far as he knows, the most
-- labels, the channel that tells the others, a name for a new log, then the labels.
-- Returns the purge's number. Numbers are exact up to 2^53.
local stored = redis.call('HGET', KEYS[1], '=seq')
local seq = tonumber(stored or '0') or 0

-- Where the caller has seen more than there is, the log has lost purges, and nobody
-- who comes can know which: all is purged.
local all = tonumber(ARGV[2]) > seq
seq = math.max(seq, tonumber(ARGV[1]), tonumber(ARGV[2])) + 1
local number = string.format('%.0f', seq)

if not stored then
  redis.call('HSET', KEYS[1], '=log', ARGV[5], '=floor', '0')
end
for i = 6, #ARGV do
  redis.call('HSET', KEYS[1], ':' .. ARGV[i], number)
  all = all or ARGV[i] == 'all'
end
-- Three fields are not labels.
redis.call('HSET', KEYS[1], '=seq', number)
if all or redis.call('HLEN', KEYS[1]) - 3 > tonumber(ARGV[3]) then
  local log = redis.call('HGET', KEYS[1], '=log')
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '=log', log or ARGV[5], '=floor', number, '=seq', number)
end
-- Who may not be told looks for himself.
redis.pcall('PUBLISH', ARGV[4], number)
return number
