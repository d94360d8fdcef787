// What is shown of a vehicle: {vehicle, version, updatedAt, status, since, signals: Map of path -> {value, at, skewed?}}. Pure.

/** The view of a state as it comes from the platform. A vehicle that never sent is at version 0, without signals. */
export function viewOf(state) {
  return {
    vehicle: state.vehicle,
    version: state.version,
    updatedAt: state.updated_at,
    status: state.status ?? "",
    since: state.since,
    signals: new Map(Object.entries(state.signals)),
  };
}

/** The signal's value; undefined if it was never sent. */
export function valueOf(view, path) {
  return view.signals.get(path)?.value;
}

/** How old a time is, in ms, by the platform's clock `now`; null for what is not a time. */
export function ageOf(at, now) {
  const then = Date.parse(at ?? "");
  return Number.isNaN(then) ? null : now - then;
}
