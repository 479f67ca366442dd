-- Orders from many customers, and what came of them as one line that a program can read.
-- Arguments: how many customers there are.

local requests = {}
local next_one = 0

function init(args)
  local customers = tonumber(args[1])
  local headers = { ["Content-Type"] = "application/json" }
  for n = 1, 1000 do
    local body = string.format(
      '{"product":"coffee","quantity":%d,"total_price":"%d.50","user_id":%d}',
      n, n % 90 + 10, (n * 7919) % customers + 1)
    requests[n] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  next_one = next_one % 1000 + 1
  return requests[next_one]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "\nRESULT %d %d %d %d %d %d\n",
    summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99), latency.max))
end
