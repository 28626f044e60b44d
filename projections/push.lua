-- Puts rows of the views into the cache, each only if it is not older than what is there.
--
-- KEYS[1] {prefix}:filled   hash partition -> "position revision"; while one is missing readers take Redis as down
-- KEYS[2] {prefix}:filling:{partition}  the token of the refill under way
-- ARGV[1] prefix   ARGV[2] token of the refill that this belongs to, '' outside of one
-- ARGV[3] the new value of `filled` for the partitions, '' to leave it
-- ARGV[4] MessagePack: [levels, codes, partitions]
--   level: [sku, warehouse, version, base, removed, added]
--     base -1: `added` are all of the item's due members; else they and `removed` lead from version base to version
--     members: removed [member, ...], added [score, member, score, member, ...]
--   code: of a warehouse   partitions: those of the writer's share
-- ARGV[5...] the values of the levels, then those of the warehouses (cmsgpack knows no binary strings);
--   each begins with its version
--
-- Returns nil if the cache is not filled (or not by this refill): nothing was written, and a refill is needed.
-- Else the indexes (from 1) of the levels that need all their members: what is there is not at `base`. `filled`
-- then stays as it was, because it may not say more than the cache holds.

local prefix, token = ARGV[1], ARGV[2]
local rows = cmsgpack.unpack(ARGV[4])
local partitions = rows[3]

if token == '' then
  for _, partition in ipairs(partitions) do
    if redis.call('HEXISTS', KEYS[1], partition) == 0 then return false end
  end
elseif redis.call('GET', KEYS[2]) ~= token then
  -- Emptied while it was being filled: what was written before is gone, so what comes after must not count as all.
  return false
end

local function version_of(value)
  if not value then return 0 end
  return (struct.unpack('<i8', value))
end

-- Many in one call, but not more than fit onto Lua's stack.
local function add(due, added)
  for i = 1, #added, 1000 do redis.call('ZADD', due, unpack(added, i, math.min(i + 999, #added))) end
end

local behind = {}
for index, row in ipairs(rows[1]) do
  local sku, warehouse, version, base, removed, added = unpack(row)
  local value = ARGV[4 + index]
  local key = prefix .. ':stock:{' .. sku .. '}'
  local due = prefix .. ':due:{' .. sku .. '}@' .. warehouse
  local stored = version_of(redis.call('HGET', key, warehouse))
  if base == -1 then
    if stored <= version then
      redis.call('DEL', due)
      add(due, added)
      redis.call('HSET', key, warehouse, value)
    end
  elseif stored == version and version > 0 then
    redis.call('HSET', key, warehouse, value)
  elseif stored == base then
    for i = 1, #removed do redis.call('ZREM', due, removed[i]) end
    add(due, added)
    redis.call('HSET', key, warehouse, value)
  elseif stored < version then
    behind[#behind + 1] = index
  end
end

for index, code in ipairs(rows[2]) do
  local value = ARGV[4 + #rows[1] + index]
  if version_of(redis.call('HGET', prefix .. ':warehouses', code)) <= version_of(value) then
    redis.call('HSET', prefix .. ':warehouses', code, value)
  end
end

if ARGV[3] ~= '' and #behind == 0 then
  for _, partition in ipairs(partitions) do redis.call('HSET', KEYS[1], partition, ARGV[3]) end
  if token ~= '' then redis.call('DEL', KEYS[2]) end
end
return behind
