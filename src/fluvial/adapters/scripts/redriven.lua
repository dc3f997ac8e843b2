#!lua
-- Remember dead letters that were written back to their topic.
-- KEYS: redriven, journal
-- ARGV: milliseconds at which the run began, most to remember, journal's length,
--       kind and entry (JSON; both empty: none), then the letters' ids
-- Returns how many are new in this run. A repeated call finds none new and journals nothing.
local new = 0
for i = 6, #ARGV do
  new = new + redis.call('ZADD', KEYS[1], 'CH', ARGV[1], ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
if new > 0 and ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'shard', '', 'kind', ARGV[4], 'entry', ARGV[5])
end
return new
