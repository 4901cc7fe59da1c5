-- Posts the bodies of a file in turns: wrk -s post.lua URL -- BODIES [HEADER VALUE]...
-- BODIES holds, for each body, a line with its length in bytes and then the body itself.
local requests, turn = {}, 0

function init(args)
  local headers = {}
  for i = 2, #args - 1, 2 do headers[args[i]] = args[i + 1] end
  local file = assert(io.open(args[1], "rb"))
  local size = file:read("*l")
  while size do
    local body = file:read(tonumber(size))
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
    size = file:read("*l")
  end
  file:close()
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

-- One line of JSON: durations in microseconds; requests that failed, by kind, too.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
