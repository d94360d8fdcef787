// The platform's time, learned from every answer: ages are by it, since a phone's own clock may be minutes off.

import { ServerClock } from "./fleetcast.js";

export const clock = new ServerClock();

/** Milliseconds since 1970 by the platform's clock. */
export function now() {
  return clock.now();
}

/** How far this device's clock is ahead of the platform's, in ms: 0 if it is right within what can be told. */
export function ahead() {
  return clock.ahead();
}
