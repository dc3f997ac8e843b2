#!lua flags=allow-oom
-- A person asks the owner of a shard for a roll-back.
-- KEYS: asked, answered, journal
-- ARGV: shard, the request's id, the request (JSON), journal's length, then kind and entry (JSON)
-- Returns 'asked' (also to a repeated call, even when it was answered meanwhile) or 'busy': another one stands.
-- allow-oom: a full server must not keep a person from it.
local standing = redis.call('HGET', KEYS[1], ARGV[1])
if standing then
  local read, request = pcall(cjson.decode, standing)
  return read and request['id'] == ARGV[2] and 'asked' or 'busy'
end
local reply = redis.call('HGET', KEYS[2], ARGV[1])
if reply and cjson.decode(reply)['id'] == ARGV[2] then
  return 'asked'
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'shard', ARGV[1], 'kind', ARGV[5], 'entry', ARGV[6])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 'asked'
