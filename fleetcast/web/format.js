// Values as people read them. Every function takes what a signal holds, and gives "–" for what it cannot read.

const NONE = "–";
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const STATUS = { LOCK: "Off, locked", OFF: "Off", ACC: "Accessory", ON: "On", START: "Starting" };
const MOTION = { moving: "Moving", running: "Running", parked: "Parked" };
const SIDE = {
  Left: "left",
  Right: "right",
  DriverSide: "driver side",
  Middle: "middle",
  PassengerSide: "passenger side",
};

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0, signDisplay: "negative" });
const tenth = new Intl.NumberFormat("en", {
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
  signDisplay: "negative",
});
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** By the name that stands in `data-as`. */
export const as = {
  whole: (value) => number(value, whole),
  km: (value) => withUnit(number(metres(value), whole), "km"),
  trip: (value) => withUnit(number(metres(value), tenth), "km"),
  kpa: (value) => withUnit(number(value, whole), "kPa"),
  percent: (value) => withUnit(number(value, whole), "%"),
  celsius: (value) => withUnit(number(value, tenth), "°C"),
  time: (value) => timeOfDay(value),
  gear: (value) => (typeof value === "number" ? gear(value) : NONE),
  status: (value) => STATUS[value] ?? (typeof value === "string" ? value : NONE),
  motion: (value) => MOTION[value] ?? (typeof value === "string" ? value : NONE),
};

/** "now", "12 s ago", "3 min ago", … for an age in ms. A sender's clock that is ahead is said, not hidden. */
export function ago(age) {
  if (age === null) return "";
  if (age < -5 * SECOND) return `dated ${span(-age)} ahead`;
  return age < SECOND ? "now" : `${span(age)} ago`;
}

/** "12 s", "3 min", "2 h 5 min", "4 days". */
export function span(age) {
  const positive = Math.max(0, age);
  if (positive < MINUTE) return `${Math.floor(positive / SECOND)} s`;
  if (positive < HOUR) return `${Math.floor(positive / MINUTE)} min`;
  const hours = Math.floor(positive / HOUR);
  const minutes = Math.floor((positive % HOUR) / MINUTE);
  if (positive < DAY) return minutes && hours < 10 ? `${hours} h ${minutes} min` : `${hours} h`;
  const days = Math.floor(positive / DAY);
  return days === 1 ? "1 day" : `${days} days`;
}

/** "Row1.Left" -> "front left". */
export function place(name) {
  const [row, side] = String(name).split(".");
  return `${{ Row1: "front", Row2: "rear" }[row] ?? row} ${SIDE[side] ?? side ?? ""}`.trim();
}

/** Date and time of day, for a tooltip. */
export function exactTime(at) {
  const then = Date.parse(at ?? "");
  return Number.isNaN(then) ? "" : exact.format(then);
}

/** 13:05:09 of a time in ms or RFC 3339; with the date before it unless that is today. */
export function timeOfDay(at) {
  const then = typeof at === "number" ? at : Date.parse(at ?? "");
  if (Number.isNaN(then)) return NONE;
  return new Date(then).toDateString() === new Date().toDateString() ? clock.format(then) : exact.format(then);
}

/** Any value as text. */
export function plain(value) {
  if (value === undefined) return NONE;
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.length ? value.map(plain).join(", ") : "none";
  return JSON.stringify(value);
}

/** "1 signal", "3 signals". */
export function count(amount, one, many = `${one}s`) {
  return `${whole.format(amount)} ${amount === 1 ? one : many}`;
}

function number(value, how) {
  return typeof value === "number" && Number.isFinite(value) ? how.format(value).replace("-", "−") : NONE;
}

function withUnit(text, unit) {
  return text === NONE ? NONE : `${text}\u00a0${unit}`;
}

function metres(value) {
  return typeof value === "number" ? value / 1000 : NaN;
}

// VSS: 0 neutral, negative reverse, 126 park, 127 drive.
function gear(value) {
  if (value === 0) return "N";
  if (value === 126) return "P";
  if (value === 127) return "D";
  return value < 0 ? "R" : String(value);
}
