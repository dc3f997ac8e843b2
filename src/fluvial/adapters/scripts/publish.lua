#!lua
-- Write the latest score of each key, never going back in a partition's offsets.
-- KEYS: 1 head, 2 published, 3 and 4 keys scored in this bucket of time and the one before, then score keys
-- ARGV: 1 epoch, 2 token, 3 seconds to live, 4 most keys, 5 number of partitions,
--       then partition, first offset, next offset and the mark that the writer knows for each,
--       then one score for each key
-- Returns {'fenced'}; {'done'}, a repeated call; {'written', refused keys};
-- {'behind'}: a mark is older than the writer's, so scores were lost here that only a replay brings back;
-- {'marks', partition, mark, ...}: some of these were published before, leave them out.
-- No allow-oom: on a full server scores give way to checkpoints.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'token')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then
  return {'fenced'}
end
local ttl, partitions = ARGV[3], tonumber(ARGV[5])
local ahead, done, marks, to = true, true, {'marks'}, {}
for i = 6, 5 + 4 * partitions, 4 do
  local mark = redis.call('HGET', KEYS[2], ARGV[i]) or '0'
  if tonumber(mark) < tonumber(ARGV[i + 3]) then return {'behind'} end
  if tonumber(mark) > tonumber(ARGV[i + 1]) then ahead = false end
  if tonumber(mark) < tonumber(ARGV[i + 2]) then done = false end
  marks[#marks + 1], marks[#marks + 2] = ARGV[i], mark
  to[#to + 1], to[#to + 2] = ARGV[i], ARGV[i + 2]
end
if done then return {'done'} end
if not ahead then return marks end

local values, refused = 1 + 4 * partitions, 0
local call, most = redis.call, tonumber(ARGV[4])
-- Each count alone comes from a cache, their union does not: ask for it only when the sum could be too many.
local room = call('PFCOUNT', KEYS[3]) + call('PFCOUNT', KEYS[4]) < most
if room or call('PFCOUNT', KEYS[3], KEYS[4]) < most then
  for i = 5, #KEYS do
    call('SET', KEYS[i], ARGV[values + i], 'EX', ttl)
  end
  call('PFADD', KEYS[3], unpack(KEYS, 5))
else
  local kept = {}
  for i = 5, #KEYS do
    if call('SET', KEYS[i], ARGV[values + i], 'EX', ttl, 'XX') then
      kept[#kept + 1] = KEYS[i]
    else
      refused = refused + 1
    end
  end
  if #kept > 0 then
    call('PFADD', KEYS[3], unpack(kept))
  end
end
call('EXPIRE', KEYS[3], 2 * tonumber(ttl))
call('HSET', KEYS[2], unpack(to))
return {'written', refused}
