-- Lets new streams through to the edge: at most FLEETCAST_PACE a second, and at most FLEETCAST_OPENING at a time that have not been
-- answered yet. Over all connections, so that it holds for HTTP/2 too, where HAProxy's own rate limits count connections and not
-- streams. Pushpin's queues for new requests hold 100, and a browser does not try again after the 5xx that an overrun of them
-- ends in. The rate alone is not enough: where the machine is slower than it, the queues overrun, phones give up and come
-- back, and that goes on for ever.
--
-- Nobody waits longer than a phone does: one that has waited for long is told to come back (`txn.late`), which costs next to
-- nothing. Let through, it would give up before it is answered, and on a machine that is too slow all work would be for such.
--
-- A phone that leaves while it waits ends the action, with a line in HAProxy's log, but not its request: what has no
-- `txn.paced` must be rejected. Were it let through, all who give up at once would overrun the edge for nobody.

local interval = 1 / tonumber(os.getenv("FLEETCAST_PACE"))
local most = tonumber(os.getenv("FLEETCAST_OPENING"))
local longest = 8 -- seconds that one waits here
local forgotten = 5 -- seconds after which one that was not answered counts no more: its phone may have gone

local looks = 2000 -- a second, about, of all who wait together

local free = 0 -- when the next slot is, in seconds since 1970
local opening = {} -- when each was let through, by its number
local count, first, last = 0, 1, 0
local pause, looked, since = 0.1, 0, 0 -- seconds between two looks of one who waits; looks since when

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

-- Waits until the next look. Ten thousand who look each tenth of a second are more work than their streams.
local function rest()
  looked = looked + 1
  local passed = now() - since
  if passed > 0.5 then
    pause = math.min(5, math.max(0.1, pause * looked / (looks * passed)))
    looked, since = 0, now()
  end
  core.msleep(math.ceil(1000 * pause * (1 + math.random())))
end

core.register_action("pace", { "http-req" }, function(txn)
  local begun = now()
  local slot = math.max(free, begun)
  if slot - begun > longest then
    txn:set_var("txn.late", true)
    return
  end
  free = slot + interval
  if slot > begun then
    core.msleep(math.ceil((slot - begun) * 1000))
  end
  -- A long-poll is answered only when there is something to say, so nobody could tell when it is open: the rate must do.
  if txn:get_var("txn.poll") then
    txn:set_var("txn.paced", true)
    return
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
    if now() - begun > longest then
      txn:set_var("txn.late", true)
      return
    end
    rest()
  end
  last = last + 1
  count = count + 1
  opening[last] = now()
  txn:set_var("txn.opening", last)
  txn:set_var("txn.paced", true)
end)

-- A fetch, because it stands in `http-after-response`, where no action of ours can: HAProxy's own answers, as when an edge has just
-- died, end an opening too, and `http-response` rules are not for them.
core.register_fetches("opened", function(txn)
  local number = txn:get_var("txn.opening")
  if number then ended(number) end
  return ""
end)
