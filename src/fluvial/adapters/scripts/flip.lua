#!lua flags=allow-oom
-- The second step of a save: make an uploaded blob the head, append the journal, keep the replaced models.
-- KEYS: 1 head, 2 journal, 3 new blob, 4 current blob, 5 previous blob (3 again where there is none),
--       6 versions, then for each replaced model where it was uploaded and where it stays, then models to let go
-- ARGV: 1 epoch, 2 token, 3 sequence, 4 digest, 5 offsets (JSON), 6 number of models to let go,
--       7 journal's length, 8 shard, 9 number of replaced models, then each one's number and what is said of
--       it (JSON), then the numbers of those to let go, then kind and entry (JSON) in turn
-- Returns 'flipped', 'repeated' (it was done before), 'missing' (upload again) or 'fenced'.
-- allow-oom: it frees more than it takes.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'sequence', 'digest', 'blob', 'previous')
local owner = head[1] == ARGV[1] and head[2] == ARGV[2]
local stored, wanted = tonumber(head[3] or 0), tonumber(ARGV[3])
local last_model = 6 + 2 * tonumber(ARGV[9])
local let_go = 9 + 2 * tonumber(ARGV[9])
local first_entry = let_go + tonumber(ARGV[6]) + 1

if owner and wanted == stored and head[4] == ARGV[4] then
  return 'repeated'
end
if not owner or wanted ~= stored + 1 then
  -- After a failover two writers can share an epoch, and so a blob's name: never unlink a live one.
  if KEYS[3] ~= head[5] and KEYS[3] ~= head[6] then
    redis.call('UNLINK', KEYS[3])
  end
  for i = 7, last_model, 2 do
    redis.call('UNLINK', KEYS[i])
  end
  return 'fenced'
end
if redis.call('EXISTS', KEYS[3]) == 0 then
  return 'missing'
end
for i = 7, last_model, 2 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return 'missing'
  end
end

-- The journal first: its key is the only one that a stranger could have made of another type.
for i = first_entry, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], '*',
             'shard', ARGV[8], 'kind', ARGV[i], 'entry', ARGV[i + 1])
end
redis.call('PERSIST', KEYS[3])
redis.call('HSET', KEYS[1], 'sequence', ARGV[3], 'digest', ARGV[4], 'offsets', ARGV[5], 'blob', KEYS[3])
-- A current blob that is gone cannot be the older generation: then the one before it stays that.
if head[5] and KEYS[4] == head[5] and redis.call('EXISTS', KEYS[4]) == 1 then
  redis.call('HSET', KEYS[1], 'previous', KEYS[4])
  if head[6] and KEYS[5] == head[6] and KEYS[5] ~= KEYS[3] then
    redis.call('UNLINK', KEYS[5])
  end
end
for i = 7, last_model, 2 do
  redis.call('RENAME', KEYS[i], KEYS[i + 1])
  redis.call('PERSIST', KEYS[i + 1])
  redis.call('HSET', KEYS[6], ARGV[i + 3], ARGV[i + 4])
end
if #KEYS > last_model then
  redis.call('HDEL', KEYS[1], 'versions')  -- where an earlier release listed them
end
for i = last_model + 1, #KEYS do
  -- Pinned since the writer looked: it stays.
  local number = ARGV[let_go + i - last_model]
  if redis.call('HEXISTS', KEYS[6], 'pin:' .. number) == 0 then
    redis.call('UNLINK', KEYS[i])
    redis.call('HDEL', KEYS[6], number)  -- a note on it stays
  end
end
-- Notes outlive models: of versions without one the newest 1,000 notes stay (MAX_NOTES).
if #KEYS > last_model then
  local known, noted = {}, {}
  local found = redis.call('HGETALL', KEYS[6])
  for i = 1, #found, 2 do
    known[found[i]] = true
  end
  for field in pairs(known) do
    local number = string.match(field, '^note:(%d+)$')
    if number and not known[number] then
      table.insert(noted, tonumber(number))
    end
  end
  table.sort(noted)
  for i = 1, #noted - 1000 do
    redis.call('HDEL', KEYS[6], string.format('note:%d', noted[i]))
  end
end
return 'flipped'
