#!lua
-- A person pins or annotates a version, or takes that back.
-- KEYS: versions, journal
-- ARGV: field, value ('' removes it), a field that has to be there ('' for none), most fields, shard,
--       journal's length, then kind and entry (JSON)
-- Returns 'done' (also to a repeated call, which journals nothing), 'gone' (that field is not there) or 'full'.
if ARGV[3] ~= '' and redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 then
  return 'gone'
end
local before = redis.call('HGET', KEYS[1], ARGV[1])
if (before or '') == ARGV[2] then
  return 'done'
end
if not before and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  return 'full'
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'shard', ARGV[5], 'kind', ARGV[7], 'entry', ARGV[8])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 'done'
