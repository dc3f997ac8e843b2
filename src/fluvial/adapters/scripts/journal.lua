#!lua flags=allow-oom
-- Append entries that belong to no checkpoint.
-- KEYS: head, journal   ARGV: epoch, token, digest of the entries, journal's length, shard, then kind and entry
-- Returns 'done' or 'fenced'. The digest makes a repeated call (its answer was lost) change nothing.
-- allow-oom: the stream is capped, and a full server is worth an entry.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'journalled')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return 'fenced'
end
if head[3] == ARGV[3] then
  return 'done'
end
redis.call('HSET', KEYS[1], 'journalled', ARGV[3])
for i = 6, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*',
             'shard', ARGV[5], 'kind', ARGV[i], 'entry', ARGV[i + 1])
end
return 'done'
