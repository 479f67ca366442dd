-- Orders from many customers, and what came of them as one line that a program can read.
-- Arguments: how many customers there are; where each request is to carry an Idempotency-Key, a number that
-- no other run has, or else "-"; and, where tokens are sent, a file with one for each customer, one a line, and the
-- length of a window in seconds: tokens are sent in every window that has the part (windows.py).

local ffi = require("ffi")
ffi.cdef("struct moment { long s, ns; }; int clock_gettime(int clock, struct moment *now);")
local now = ffi.new("struct moment")
local REALTIME = 0
local EARLY = 0.07 -- seconds before such a window, and after it, in which tokens are sent too

local before, after = {}, {}
local with_token, window = {}, nil
local next_one = 0
local sent = 0
local run = nil

function init(args)
  local customers = tonumber(args[1])
  local headers = { ["Content-Type"] = "application/json" }
  run = args[2] ~= "-" and args[2] or nil
  local tokens = {}
  window = tonumber(args[4])
  if args[3] then
    for line in io.lines(args[3]) do
      tokens[#tokens + 1] = line
    end
  end
  if run then
    headers["Idempotency-Key"] = "KEY"
    math.randomseed(tonumber(run))
  end
  for n = 1, 1000 do
    local customer = (n * 7919) % customers + 1
    local body = string.format(
      '{"product":"coffee","quantity":%d,"total_price":"%d.50","user_id":%d}',
      n, n % 90 + 10, customer)
    if tokens[customer] then
      headers["Authorization"] = "Bearer " .. tokens[customer]
      with_token[n] = wrk.format("POST", nil, headers, body)
      headers["Authorization"] = nil
    end
    before[n], after[n] = wrk.format("POST", nil, headers, body):match("^(.*)KEY(.*)$")
    before[n] = before[n] or wrk.format("POST", nil, headers, body)
  end
end

-- Whether a window that has the part is open in so many seconds.
function has_part(later)
  ffi.C.clock_gettime(REALTIME, now)
  local number = math.floor((tonumber(now.s) + tonumber(now.ns) / 1e9 + later) / window)
  return math.floor((number + 1) / 2) % 2 == 1
end

function request()
  next_one = next_one % 1000 + 1
  if window and (has_part(-EARLY) or has_part(EARLY)) then
    return with_token[next_one]
  end
  if not run then
    return before[next_one]
  end
  -- As long as a UUID and as random where it counts: such keys come in no order, and an index
  -- feels that. The run and the number make sure that no two are the same.
  sent = sent + 1
  local key = string.format("%08x-%s-%015d", math.random(0, 0xffffffff), run, sent)
  return before[next_one] .. key .. after[next_one]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "\nRESULT %d %d %d %d %d %d\n",
    summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99), latency.max))
end
