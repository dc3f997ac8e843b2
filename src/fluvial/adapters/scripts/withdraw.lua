#!lua flags=allow-oom
-- A person takes a request for a roll-back back.
-- KEYS: asked, journal   ARGV: shard, the request (JSON), journal's length, then kind and entry (JSON)
-- Returns 'withdrawn' or 'gone': it does not stand (any more).
-- allow-oom: it frees more than it takes.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 'gone'
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'shard', ARGV[1], 'kind', ARGV[4], 'entry', ARGV[5])
redis.call('HDEL', KEYS[1], ARGV[1])
return 'withdrawn'
