#!lua flags=allow-oom
-- A person takes a request for a roll-back back.
-- KEYS: asked, journal
-- ARGV: shard, the request's id, '1' when no worker holds the lease, journal's length, then kind and entry (JSON)
-- Returns 'withdrawn', 'gone': it does not stand (any more), or 'taken': a worker carries it out.
-- allow-oom: it frees more than it takes.
local standing = redis.call('HGET', KEYS[1], ARGV[1])
local request = standing and cjson.decode(standing)
if not request or request['id'] ~= ARGV[2] then
  return 'gone'
end
if request['taken'] and ARGV[3] ~= '1' then
  return 'taken'
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'shard', ARGV[1], 'kind', ARGV[5], 'entry', ARGV[6])
redis.call('HDEL', KEYS[1], ARGV[1])
return 'withdrawn'
