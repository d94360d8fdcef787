// What a tab remembers. Of a vehicle between two visits of its page: the view, its event id and the line drawn; with the id
// the stream goes on where it was, and the platform replays what was missed, so the line has no gap. Of the list: where it was.

import { fromJson, toJson } from "./state.js";

const LIST = "fleetcast:list";
const KEPT = 9 * 60_000; // the platform replays ten minutes unless it is set otherwise; if less, it says so and sends all

export function remember(vehicle, { lastId, view }, points) {
  try {
    if (!lastId || !view) sessionStorage.removeItem(key(vehicle));
    else sessionStorage.setItem(key(vehicle), JSON.stringify({ at: Date.now(), lastId, view: toJson(view), points }));
  } catch {
    // The store is full or forbidden: the next visit begins with a snapshot.
  }
}

/** {lastId, view, points}, or null. */
export function recall(vehicle) {
  try {
    const found = JSON.parse(sessionStorage.getItem(key(vehicle)));
    if (!found || Date.now() - found.at > KEPT) return null;
    return { lastId: found.lastId, view: fromJson(found.view), points: found.points };
  } catch {
    return null;
  }
}

/** The address of the list as it was last shown, with its search and page: where the way back from a vehicle leads. */
export function rememberList(address) {
  try {
    sessionStorage.setItem(LIST, address);
  } catch {
    // Then the way back leads to the beginning of the list.
  }
}

export function recallList() {
  try {
    return sessionStorage.getItem(LIST) ?? "/";
  } catch {
    return "/";
  }
}

function key(vehicle) {
  return `fleetcast:vehicle:${vehicle}`;
}
