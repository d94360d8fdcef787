// One vehicle's stream, in the page's words. How a stream is followed, and kept alive, is in fleetcast.js, which is for any app.

import { clock } from "./clock.js";
import { subscribe } from "./fleetcast.js";
import { MANY } from "./api.js";
import { viewOf } from "./state.js";

const LOST_HERE = "gap";

/**
 * Follows the vehicle; the answer is the subscription. `remembered`: {lastId, state} of an earlier visit, from where it goes on.
 * `on` has the functions
 *   state(word, reason, detail)   connecting, live, reconnecting, unavailable, refused
 *   view(view, kind)      the new view, and the kind of event that made it: snapshot or update
 *   lost(reason)          updates were missed for good; a snapshot follows: expired, foreign, gap
 *   event({kind, id, data, note})   everything that came, as text; `note` says what was made of it
 */
export function follow(vehicle, on, remembered) {
  let word = "connecting";
  const stream = subscribe({ base: "", vehicle, noun: MANY }, { clock, from: remembered ?? undefined });
  stream.on("status", (now) => on.state((word = next(word, now)), now.reason, now.detail));
  stream.on("change", ({ state, kind }) => on.view(viewOf(state), kind));
  stream.on("reset", ({ reason }) => on.lost(reason));
  stream.on("gap", ({ fresh }) => fresh && on.lost(LOST_HERE));
  stream.on("event", on.event);
  return stream;
}

// A page says what is the matter until it is mended, not what is being tried meanwhile.
function next(word, { status, reason }) {
  if (status === "live") return "live";
  if (status === "ended") return "refused";
  if (reason === "hidden") return "reconnecting";
  if (status === "connecting") return word === "live" ? "reconnecting" : word;
  if (reason === "unavailable") return "unavailable";
  return word === "connecting" ? word : "reconnecting";
}
