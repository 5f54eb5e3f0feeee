-- wrk: every request is one payment by the next customer in turn. The file of requests holds "token merchant" lines.
local requests = {}
local position = 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local token, merchant = line:match("(%S+) (%S+)")
    requests[#requests + 1] = wrk.format("POST", "/payment/initiate", {
      ["Authorization"] = "Bearer " .. token,
      ["Content-Type"] = "application/json",
    }, string.format('{"merchantId":"%s","amount":1250,"currency":"USD","reference":"bench"}', merchant))
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency)
  io.write(string.format(
    'RESULT {"requests":%d,"microseconds":%d,"bad":%d,"p50":%d,"p90":%d,"p99":%d,"max":%d}\n',
    summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
