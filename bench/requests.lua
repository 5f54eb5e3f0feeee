-- wrk: sends the requests of a file one after the other, again and again. A line is "method path token body", parted by
-- tabs. What has a body gets an idempotency key of its own every time, as a careful client sends it.
local requests = {}
local position = 0
local sent = 0
local run

function init(arguments)
  run = arguments[2]
  for line in io.lines(arguments[1]) do
    local method, path, token, body = line:match("([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)")
    local headers = { ["Authorization"] = "Bearer " .. token }
    if body == "" then
      requests[#requests + 1] = { wrk.format(method, path, headers) }
    else
      headers["Content-Type"] = "application/json"
      headers["Idempotency-Key"] = "KEY"
      local before, after = wrk.format(method, path, headers, body):match("(.-Idempotency%-Key: )KEY(.*)")
      requests[#requests + 1] = { before, after }
    end
  end
end

function request()
  position = position % #requests + 1
  local parts = requests[position]
  if not parts[2] then return parts[1] end
  sent = sent + 1
  return parts[1] .. run .. sent .. parts[2]
end

function done(summary, latency)
  io.write(string.format(
    'RESULT {"requests":%d,"microseconds":%d,"bad":%d,"p50":%d,"p90":%d,"p99":%d,"max":%d}\n',
    summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
