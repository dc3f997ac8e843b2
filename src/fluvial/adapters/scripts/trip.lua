#!lua flags=allow-oom
-- Store that the flood breaker paused a shard, unless a person has resumed this very trip.
-- KEYS: head, tripped, journal
-- ARGV: epoch, token, shard, the trip's id, the trip (JSON), journal's length, then kind and entry (JSON)
-- Returns 'tripped' (it stands, perhaps since an earlier call), 'resumed' or 'fenced'.
-- allow-oom: a pause that a full server forgets would be none.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'resumed')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
if head[3] == ARGV[4] then
  return 'resumed'
end
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[5] then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*',
             'shard', ARGV[3], 'kind', ARGV[7], 'entry', ARGV[8])
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
end
return 'tripped'
