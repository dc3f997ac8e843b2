#!lua flags=allow-oom
-- The owner begins to carry a request out: from here on nobody can take it back while a worker lives.
-- KEYS: head, asked
-- ARGV: epoch, token, shard, the request's id, the request as taken (JSON)
-- Returns 'taken' (also to a repeated call), 'gone': it was taken back meanwhile, or 'fenced'.
-- allow-oom: it replaces what stands there.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
local standing = redis.call('HGET', KEYS[2], ARGV[3])
if not standing or cjson.decode(standing)['id'] ~= ARGV[4] then
  return 'gone'
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
return 'taken'
