#!lua flags=allow-oom
-- The second step of a save: make an uploaded blob the head, append the journal, keep the replaced models.
-- KEYS: 1 head, 2 journal, 3 new blob, 4 current blob, 5 previous blob (3 again where there is none),
--       then for each replaced model where it was uploaded and where it stays, then models to let go
-- ARGV: 1 epoch, 2 token, 3 sequence, 4 digest, 5 offsets (JSON), 6 kept versions, 7 journal's length,
--       8 shard, 9 number of replaced models, then kind and entry (JSON) in turn
-- Returns 'flipped', 'repeated' (it was done before), 'missing' (upload again) or 'fenced'.
-- allow-oom: it frees more than it takes.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'sequence', 'digest', 'blob', 'previous')
local owner = head[1] == ARGV[1] and head[2] == ARGV[2]
local stored, wanted = tonumber(head[3] or 0), tonumber(ARGV[3])
local last_model = 5 + 2 * tonumber(ARGV[9])

if owner and wanted == stored and head[4] == ARGV[4] then
  return 'repeated'
end
if not owner or wanted ~= stored + 1 then
  -- After a failover two writers can share an epoch, and so a blob's name: never unlink a live one.
  if KEYS[3] ~= head[5] and KEYS[3] ~= head[6] then
    redis.call('UNLINK', KEYS[3])
  end
  for i = 6, last_model, 2 do
    redis.call('UNLINK', KEYS[i])
  end
  return 'fenced'
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  return 'missing'
end
for i = 6, last_model, 2 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return 'missing'
  end
end

-- The journal first: its key is the only one that a stranger could have made of another type.
for i = 10, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], '*',
             'shard', ARGV[8], 'kind', ARGV[i], 'entry', ARGV[i + 1])
end
redis.call('PERSIST', KEYS[3])
redis.call('HSET', KEYS[1], 'sequence', ARGV[3], 'digest', ARGV[4], 'offsets', ARGV[5],
           'versions', ARGV[6], 'blob', KEYS[3])
-- A current blob that is gone cannot be the older generation: then the one before it stays that.
if head[5] and KEYS[4] == head[5] and redis.call('EXISTS', KEYS[4]) == 1 then
  redis.call('HSET', KEYS[1], 'previous', KEYS[4])
  if head[6] and KEYS[5] == head[6] and KEYS[5] ~= KEYS[3] then
    redis.call('UNLINK', KEYS[5])
  end
end
for i = 6, last_model, 2 do
  redis.call('RENAME', KEYS[i], KEYS[i + 1])
  redis.call('PERSIST', KEYS[i + 1])
end
for i = last_model + 1, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return 'flipped'
