-- Each request has seeds of its own; the result is one line of JSON.
local template = os.getenv("LOAD_BODY")
local seed = tonumber(os.getenv("LOAD_SEED"))

wrk.method = "POST"
wrk.headers["Content-Type"] = os.getenv("LOAD_CONTENT_TYPE") or "application/json"

local function next_seeds(count)
  local seeds = {}
  for i = 1, count do
    seeds[i] = string.format("%d", seed)
    seed = seed + 1
  end
  return table.concat(seeds, ",")
end

request = function()
  local body = template:gsub("@SEEDS:(%d+)@", function(n) return next_seeds(tonumber(n)) end)
  body = body:gsub("@SEED@", function() return next_seeds(1) end)
  return wrk.format(nil, nil, nil, body)
end

done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
