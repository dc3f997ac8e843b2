#!lua flags=allow-oom
-- Raise the shard's epoch and set its token; the same token again changes nothing.
-- KEYS: head, published, lease   ARGV: token; from a member of a group also: group, generation, owner, milliseconds
-- Returns: epoch, sequence or '', digest, offsets (JSON), then partition and mark in turn;
-- {'refused', generation} when a member of a younger generation holds the lease.
-- allow-oom: a full server must not keep a shard without an owner.
local head = redis.call('HMGET', KEYS[1], 'token', 'epoch', 'sequence', 'digest', 'offsets')
local epoch = head[2]
if ARGV[2] then
  local known = redis.call('HMGET', KEYS[1], 'group', 'generation')
  if head[1] ~= ARGV[1] and known[1] == ARGV[2] and tonumber(known[2]) > tonumber(ARGV[3])
      and redis.call('EXISTS', KEYS[3]) == 1 then
    return {'refused', known[2]}
  end
  redis.call('HSET', KEYS[1], 'group', ARGV[2], 'generation', ARGV[3])
  redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
end
if head[1] ~= ARGV[1] then
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HSET', KEYS[1], 'token', ARGV[1])
end
local answer = {tostring(epoch), head[3] or '', head[4] or '', head[5] or '{}'}
for _, value in ipairs(redis.call('HGETALL', KEYS[2])) do
  answer[#answer + 1] = value
end
return answer
