-- Lets at most FLEETCAST_PACE new streams a second through to the edge: a leaky bucket over all connections, so that it
-- holds for HTTP/2 too, where HAProxy's own rate limits count connections and not streams. Pushpin's queues for new
-- requests are short, and a browser does not try again after the 5xx that an overrun of them ends in.

local interval = 1 / tonumber(os.getenv("FLEETCAST_PACE"))
local free = 0 -- when the next slot is, in seconds since 1970

core.register_action("pace", { "http-req" }, function(txn)
  local time = core.now()
  local now = time.sec + time.usec / 1e6
  local slot = math.max(free, now)
  free = slot + interval
  if slot > now then
    core.msleep(math.ceil((slot - now) * 1000))
  end
end)
