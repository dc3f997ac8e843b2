#!lua flags=allow-oom
-- Give a lease back if it is ours.   KEYS: lease   ARGV: owner
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
end
return 1
