-- Lets new streams through to the edge: at most FLEETCAST_PACE a second, and at most FLEETCAST_OPENING at a time that have not been
-- answered yet. Over all connections, so that it holds for HTTP/2 too, where HAProxy's own rate limits count connections and not
-- streams. Pushpin's queues for new requests hold 100, and a browser does not try again after the 5xx that an overrun of them
-- ends in. The rate alone is not enough: where the machine is slower than it, the queues overrun, phones give up and come
-- back, and that goes on for ever.
--
-- A phone that leaves while it waits ends the action, with a line in HAProxy's log, but not its request: what has no
-- `txn.paced` must be rejected. Were it let through, all who give up at once would overrun the edge for nobody.

local interval = 1 / tonumber(os.getenv("FLEETCAST_PACE"))
local most = tonumber(os.getenv("FLEETCAST_OPENING"))
local forgotten = 5 -- seconds after which one that was not answered counts no more: its phone may have gone

local free = 0 -- when the next slot is, in seconds since 1970
local opening = {} -- when each was let through, by its number
local count, first, last = 0, 1, 0

local function now()
  local time = core.now()
  return time.sec + time.usec / 1e6
end

local function ended(number)
  if opening[number] then
    opening[number] = nil
    count = count - 1
  end
end

core.register_action("pace", { "http-req" }, function(txn)
  local begun = now()
  local slot = math.max(free, begun)
  free = slot + interval
  if slot > begun then
    core.msleep(math.ceil((slot - begun) * 1000))
  end
  while true do
    while first <= last and (not opening[first] or now() - opening[first] > forgotten) do
      ended(first)
      first = first + 1
    end
    if tonumber(txn.f:nbsrv("streams")) == 0 then -- told at once, by HAProxy itself
      txn:set_var("txn.paced", true)
      return
    end
    if count < most then break end
    core.msleep(100 + math.random(100))
  end
  last = last + 1
  count = count + 1
  opening[last] = now()
  txn:set_priv(last)
  txn:set_var("txn.paced", true)
end)

core.register_action("opened", { "http-res" }, function(txn)
  local number = txn:get_priv()
  if number then ended(number) end
end)
