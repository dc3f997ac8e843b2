#!lua flags=allow-oom
-- Remove a shard's checkpoints, replaced models and published offsets; epoch and token stay, and so the fence.
-- KEYS: head, published, then blobs and models   ARGV: epoch, token, and the sequence and digest to forget
-- Returns 'done' or 'fenced'. A delayed duplicate finds another head and leaves it alone.
-- allow-oom: it only frees.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'sequence', 'digest')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
if (head[3] or '0') ~= ARGV[3] or (head[4] or '') ~= ARGV[4] then
  return 'done'
end
redis.call('HDEL', KEYS[1], 'sequence', 'digest', 'offsets', 'blob', 'previous', 'versions', 'resumed')
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return 'done'
