// The platform's time. A phone's own clock may be minutes off, and then every age on the page would be wrong; the Date
// header of any answer tells, to a second or two, what the platform's clock says.

const TOLERATED = 3000; // Date has whole seconds, and the answer took its time

let offset = 0; // what must be added to this device's clock, in ms
let best = Infinity; // the shortest round trip that it was learned from

/** Milliseconds since 1970 by the platform's clock. */
export function now() {
  return Date.now() + offset;
}

/** How far this device's clock is ahead of the platform's, in ms: 0 if it is right within what can be told. */
export function ahead() {
  return -offset;
}

/** Learns from an answer that was asked for at `asked` (Date.now()). */
export function learn(response, asked) {
  const date = Date.parse(response.headers.get("Date") ?? "");
  const tookLong = Date.now() - asked;
  if (Number.isNaN(date) || tookLong > best || tookLong > 5000) return;
  best = tookLong;
  const difference = date + 500 - (asked + tookLong / 2);
  offset = Math.abs(difference) > TOLERATED ? difference : 0;
}
