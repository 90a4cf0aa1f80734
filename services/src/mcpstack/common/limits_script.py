# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside Valkey for the limits. All of a key's limits are decided in one place, at one time, by one clock.

Each call has two keys, a hash and a sorted set, and one line of words; its answer is a line. The hash holds

    n t     requests left in the bucket, and when that was (ms)
    x u     tokens left in the bucket (less than 0: a debt), and when that was
    r       tokens reserved by running requests
    d dn    day (since 1970), tokens settled in it
    m mn    month (year * 12 + month), tokens settled in it
    s       1 once dn and mn include what the database knows

and the set the leases of running requests, "ID:TOKENS" scored with when they end (ms). A lease that is not kept ends by
itself, and what it had reserved is free again: so a process that was killed holds nothing for long. When no lease is
left nothing is reserved, whatever r says.

    t RPM TPM DAY MONTH CONCURRENCY LEASE_MS NEED WANT ID UNSEEDED
        Take one request. A limit of 0 is none. NEED tokens must be there, up to WANT are reserved. A request that is
        refused takes nothing, but it is one: those that ask in vain run out of requests.
        -> CODE RESERVED N N_WAIT N_RESET X X_WAIT X_RESET SECONDS DAY_USED MONTH_USED RUNNING
        CODE 0 yes, 1 requests, 2 concurrency, 3 tokens, 4 day, 5 month, 6 not seeded (nothing taken)
    s MEMBER RESERVED ACTUAL DAY MONTH TPM      End a lease; its request used ACTUAL tokens, counted for its own day.
    c ID TPM                                    End a lease that nobody has, if there is one: its answer was lost.
    k MEMBER RESERVED LEASE_MS                  Keep a lease, or make it again when Valkey has lost it.
    f DAY DAY_TOTAL MONTH MONTH_TOTAL           What the database knows: the least that was used. Seeds the hash.

Commands: TIME HMGET HSET PEXPIRE ZADD ZREM ZCARD ZSCORE ZRANGEBYSCORE ZREMRANGEBYSCORE.
"""

from __future__ import annotations

CALENDAR = """\
local function month_of(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local mp = math.floor((5 * (doe - 365 * yoe - math.floor(yoe / 4) + math.floor(yoe / 100)) + 2) / 153)
  return (yoe + era * 400) * 12 + mp + 3
end
"""

LIMITS = (
    CALENDAR
    + """\
local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local clock = call('TIME')
local seconds = tonumber(clock[1])
local now = seconds * 1000 + floor(clock[2] / 1000)
local today = floor(seconds / 86400)
local LEAST, HOUR = 61000, 3600000

local function write(hash, fields, ttl)
  local words = {}
  for name, value in pairs(fields) do
    words[#words + 1] = name
    words[#words + 1] = string.format('%.17g', value)
  end
  call('HSET', hash, unpack(words))
  if ttl then call('PEXPIRE', hash, ttl) end
end

local function refilled(left, since, capacity)
  local per_ms = capacity / 60000
  return min(capacity, (tonumber(left) or capacity) + max(0, now - (tonumber(since) or now)) * per_ms), per_ms
end

-- How many leases run, and what they have reserved, after those whose time is over have ended.
local function leases(set, reserved)
  local over = call('ZRANGEBYSCORE', set, '-inf', now)
  if #over > 0 then
    call('ZREMRANGEBYSCORE', set, '-inf', now)
    for _, member in ipairs(over) do reserved = reserved - tonumber(string.match(member, '%d+$')) end
  end
  local running = call('ZCARD', set)
  return running, running > 0 and max(0, reserved) or 0
end

local run = {}

function run.t(hash, set, rpm, tpm, day, month, concurrency, lease, need, want, id, unseeded)
  local h = call('HMGET', hash, 'n', 't', 'x', 'u', 'r', 'd', 'dn', 'm', 'mn', 's')
  local budgets = day > 0 or month > 0
  if budgets and not h[10] and unseeded == 0 then return '6 0 0 0 0 0 0 0 ' .. seconds .. ' 0 0 0' end
  local code, give = 0, want
  local function refuse(reason) if code == 0 then code = reason end end

  local n, n_ms = refilled(h[1], h[2], rpm)
  if n < 1 then refuse(1) end

  local running, reserved = 0, tonumber(h[5]) or 0
  if concurrency > 0 or budgets then running, reserved = leases(set, reserved) end
  if concurrency > 0 and running >= concurrency then refuse(2) end

  local x, x_ms = 0, 1
  if tpm > 0 then
    x, x_ms = refilled(h[3], h[4], tpm)
    if want > 0 and x < max(1, need) then refuse(3) end
    give = min(give, floor(x))
  end

  local this_month = budgets and month_of(today) or 0
  local dn = tonumber(h[6]) == today and tonumber(h[7]) or 0
  local mn = tonumber(h[8]) == this_month and tonumber(h[9]) or 0
  if want > 0 and day > 0 then
    give = min(give, day - dn - reserved)
    if day - dn - reserved < max(1, need) then refuse(4) end
  end
  if want > 0 and month > 0 then
    give = min(give, month - mn - reserved)
    if month - mn - reserved < max(1, need) then refuse(5) end
  end

  if code > 0 then give = 0 end
  if code ~= 1 then
    n, x, reserved = n - 1, x - give, reserved + give
    local fields = {n = n, t = now, r = reserved}
    if tpm > 0 then fields.x, fields.u = x, now end
    if budgets then fields.d, fields.dn, fields.m, fields.mn = today, dn, this_month, mn end
    local ttl = max(LEAST, lease + 1000, budgets and HOUR or 0, tpm > 0 and ceil((tpm - x) / x_ms) + 1000 or 0)
    write(hash, fields, ttl)
    if code == 0 and concurrency > 0 then
      running = running + 1
      call('ZADD', set, now + lease, id .. ':' .. string.format('%d', give))
      call('PEXPIRE', set, ttl)
    end
  elseif h[5] and reserved ~= tonumber(h[5]) then
    write(hash, {r = reserved})
  end
  return string.format(
    '%d %d %d %d %d %d %d %d %d %d %d %d', code, give, floor(n), ceil(max(0, 1 - n) / n_ms), ceil((rpm - n) / n_ms),
    max(0, floor(x)), ceil(max(0, max(1, need) - x) / x_ms), tpm > 0 and ceil((tpm - x) / x_ms) or 0,
    seconds, dn + reserved, mn + reserved, running)
end

function run.s(hash, set, member, reserved, actual, day, month, tpm)
  local held = call('ZREM', set, member) == 1
  local h = call('HMGET', hash, 'x', 'r', 'd', 'dn', 'm', 'mn')
  local fields = {}
  if held and h[2] then fields.r = max(0, tonumber(h[2]) - reserved) end
  if tpm > 0 and h[1] then
    fields.x = tonumber(h[1]) + reserved - actual
    if fields.x < 0 then call('PEXPIRE', hash, ceil((tpm - fields.x) * 60000 / tpm) + 1000, 'GT') end
  end
  if tonumber(h[3]) == day then fields.dn = tonumber(h[4]) + actual end
  if tonumber(h[5]) == month then fields.mn = tonumber(h[6]) + actual end
  if next(fields) then write(hash, fields) end
  return ''
end

function run.c(hash, set, id, tpm)
  for _, member in ipairs(call('ZRANGEBYSCORE', set, '-inf', '+inf')) do
    if string.sub(member, 1, #id + 1) == id .. ':' then
      run.s(hash, set, member, tonumber(string.match(member, '%d+$')), 0, 0, 0, tpm)
    end
  end
  return ''
end

function run.k(hash, set, member, reserved, lease)
  if not call('ZSCORE', set, member) then
    local r = call('HMGET', hash, 'r')[1]
    write(hash, {r = (tonumber(r) or 0) + reserved}, not r and HOUR or nil)
  end
  call('ZADD', set, now + lease, member)
  call('PEXPIRE', set, lease + LEAST)
  call('PEXPIRE', hash, lease + LEAST, 'GT')
  return ''
end

function run.f(hash, set, day, day_total, month, month_total)
  local h = call('HMGET', hash, 'd', 'dn', 'm', 'mn', 'r')
  local this_month = month_of(today)
  local dn = tonumber(h[1]) == today and tonumber(h[2]) or 0
  local mn = tonumber(h[3]) == this_month and tonumber(h[4]) or 0
  if day == today then dn = max(dn, day_total) end
  if month == this_month then mn = max(mn, month_total) end
  write(hash, {d = today, dn = dn, m = this_month, mn = mn, s = 1, r = tonumber(h[5]) or 0}, not h[5] and HOUR or nil)
  call('PEXPIRE', hash, HOUR, 'GT')
  return ''
end

local answers = {}
for i, line in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(line, '%S+') do words[#words + 1] = tonumber(word) or word end
  local done, answer = pcall(run[words[1]], KEYS[2 * i - 1], KEYS[2 * i], unpack(words, 2))
  if not done then
    answer = '!' .. string.gsub(type(answer) == 'table' and answer.err or tostring(answer), '%s+', ' ')
  end
  answers[i] = answer
end
return table.concat(answers, '\\n')
"""
)
