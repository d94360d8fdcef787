// Where the platform's API is, and what it is asked. What the things are called stands in the page,
// where the platform fills it in.

import { clock } from "./clock.js";
import { reasonOf } from "./fleetcast.js";

/** `vehicles` and `vehicle`, or what this platform calls them. */
export const { many: MANY, one: ONE } = document.documentElement.dataset;

const COLLECTION = `/v1/${MANY}`;

/** Whether the platform could know a vehicle by this id. */
export function isVehicle(id) {
  return /^[A-Za-z0-9_-]{1,64}$/.test(id);
}

/** The page of one vehicle. */
export function pageOf(vehicle) {
  return `/?vehicle=${encodeURIComponent(vehicle)}`;
}

/** A page of the fleet: {vehicles, next}. */
export async function fleet({ search, after, limit, signals, abort }) {
  const query = new URLSearchParams({ limit, signals: signals.join(",") });
  if (search) query.set("search", search);
  if (after) query.set("after", after);
  const response = await ask(`${COLLECTION}?${query}`, { signal: abort });
  if (!response.ok) throw new Error(await reasonOf(response));
  return response.json();
}

/** Asks for next to nothing, to learn the platform's time. */
export async function askTime() {
  await ask("/static/icon.svg", { method: "HEAD" }).catch(() => undefined);
}

async function ask(address, options) {
  const asked = Date.now();
  const response = await fetch(address, { cache: "no-store", ...options });
  clock.learn(response, asked);
  return response;
}
