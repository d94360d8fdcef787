// What a tab remembers. Of a vehicle between two visits of its page: the state, its event id and the line drawn; with the id
// the stream goes on where it was, and the platform replays what was missed, so the line has no gap. Of the list: where it was.

const LIST = "fleetcast:list";
const KEPT = 9 * 60_000; // the platform replays ten minutes unless it is set otherwise; if less, it says so and sends all

export function remember(vehicle, { lastId, state }, points) {
  try {
    if (!lastId || !state) sessionStorage.removeItem(key(vehicle));
    else sessionStorage.setItem(key(vehicle), JSON.stringify({ at: Date.now(), lastId, state, points }));
  } catch {
    // The store is full or forbidden: the next visit begins with a snapshot.
  }
}

/** {lastId, state, points}, or null. */
export function recall(vehicle) {
  try {
    const found = JSON.parse(sessionStorage.getItem(key(vehicle)));
    if (!found || Date.now() - found.at > KEPT) return null;
    return found.state ? found : null;
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
