#!lua flags=allow-oom
-- The owner says what became of a request, which then stands no more.
-- KEYS: head, asked, answered, journal
-- ARGV: epoch, token, shard, the request's id, the reply (JSON), journal's length,
--       then kind and entry (JSON), where there is something to journal
-- Returns 'done' (also to a repeated call) or 'fenced'.
-- allow-oom: an answer that a full server forgets would be asked for again.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
if redis.call('HGET', KEYS[3], ARGV[3]) ~= ARGV[5] then
  if ARGV[7] then
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*',
               'shard', ARGV[3], 'kind', ARGV[7], 'entry', ARGV[8])
  end
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[5])
end
local standing = redis.call('HGET', KEYS[2], ARGV[3])
if standing and cjson.decode(standing)['id'] == ARGV[4] then
  redis.call('HDEL', KEYS[2], ARGV[3])
end
return 'done'
