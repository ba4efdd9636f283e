-- Renews slots, or puts them back. KEYS: one. ARGV: the lease in milliseconds,
-- then the IDs.
local ids = {}
for i = 2, #ARGV do
  ids[#ids + 1] = ARGV[i]
end
slots_hold(KEYS[1], tonumber(ARGV[1]), ids)
return 1
