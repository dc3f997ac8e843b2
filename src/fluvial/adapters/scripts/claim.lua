#!lua flags=allow-oom
-- Raise the shard's epoch and set its token; the same token again changes nothing.
-- KEYS: head, published   ARGV: token
-- Returns: epoch, sequence or '', digest, offsets (JSON), then partition and mark in turn.
-- allow-oom: a full server must not keep a shard without an owner.
local head = redis.call('HMGET', KEYS[1], 'token', 'epoch', 'sequence', 'digest', 'offsets')
local epoch = head[2]
if head[1] ~= ARGV[1] then
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HSET', KEYS[1], 'token', ARGV[1])
end
local answer = {tostring(epoch), head[3] or '', head[4] or '', head[5] or '{}'}
for _, value in ipairs(redis.call('HGETALL', KEYS[2])) do
  answer[#answer + 1] = value
end
return answer
