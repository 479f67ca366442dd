-- Reads of single orders, and what came of them, in the line of wrk.lua. Argument: how many orders there are.

local requests, next_one = {}, 0

function init(args)
  local orders = tonumber(args[1])
  for n = 1, 1000 do
    requests[n] = wrk.format("GET", "/orders/" .. ((n * 7919) % orders + 1))
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
