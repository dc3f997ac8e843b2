#!lua flags=allow-oom
-- A person lets a shard go on that the flood breaker had paused.
-- KEYS: head, tripped, journal
-- ARGV: shard, the trip's id, the trip (JSON), journal's length, then kind and entry (JSON)
-- Returns 'resumed' (also to a repeated call) or 'gone': it is not this trip that pauses the shard.
-- allow-oom: a full server must not keep a person from it.
local trip = redis.call('HGET', KEYS[2], ARGV[1])
if trip ~= ARGV[3] then
  local before = redis.call('HGET', KEYS[1], 'resumed')
  return (not trip and before == ARGV[2]) and 'resumed' or 'gone'
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*',
           'shard', ARGV[1], 'kind', ARGV[5], 'entry', ARGV[6])
redis.call('HSET', KEYS[1], 'resumed', ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[1])
return 'resumed'
