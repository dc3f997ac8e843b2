#!lua flags=allow-oom
-- A person takes a request for a roll-back back.
-- KEYS: asked, journal, lease
-- ARGV: shard, the request's id, journal's length, then kind and entry (JSON)
-- Returns 'withdrawn', 'gone': it does not stand (any more), or 'taken': a worker carries it out.
-- allow-oom: it frees more than it takes.
local standing = redis.call('HGET', KEYS[1], ARGV[1])
local request = standing and cjson.decode(standing)
if not request or request['id'] ~= ARGV[2] then
  return 'gone'
end
if request['taken'] and redis.call('EXISTS', KEYS[3]) == 1 then
  return 'taken'
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'shard', ARGV[1], 'kind', ARGV[4], 'entry', ARGV[5])
redis.call('HDEL', KEYS[1], ARGV[1])
return 'withdrawn'
