// What is shown of a vehicle: {vehicle, version, updatedAt, signals: Map of path -> {value, at, skewed?}}. Pure.

/** The view that a `snapshot` event carries. A vehicle that never sent is at version 0, without signals. */
export function fromSnapshot(data) {
  return {
    vehicle: data.vehicle,
    version: data.version,
    updatedAt: data.updated_at,
    signals: new Map(Object.entries(data.signals)),
  };
}

/** The view after an `update`, or null if the update does not follow it: something in between was missed. */
export function afterUpdate(view, data) {
  if (!view || data.prev !== view.version) return null;
  const signals = new Map(view.signals);
  for (const [path, patch] of Object.entries(data.signals)) {
    if (patch === null) signals.delete(path);
    else signals.set(path, merged(signals.get(path), patch));
  }
  return { vehicle: view.vehicle, version: data.version, updatedAt: data.updated_at, signals };
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

/** To and from what can be stored as JSON. */
export function toJson(view) {
  return { ...view, signals: [...view.signals] };
}

export function fromJson(stored) {
  return { ...stored, signals: new Map(stored.signals) };
}

/** JSON Merge Patch (RFC 7396) of one signal. */
function merged(target, patch) {
  if (!isObject(patch)) return patch;
  const result = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) result.delete(name);
    else result.set(name, merged(result.get(name), value));
  }
  return Object.fromEntries(result);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
