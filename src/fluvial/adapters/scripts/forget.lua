#!lua flags=allow-oom
-- Remove a shard's checkpoints, replaced models and published offsets; epoch and token stay, and so the fence.
-- KEYS: head, published, then blobs and models   ARGV: epoch, token
-- Returns 'done' or 'fenced'. allow-oom: it only frees.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
redis.call('HDEL', KEYS[1], 'sequence', 'digest', 'offsets', 'blob', 'previous', 'versions')
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return 'done'
