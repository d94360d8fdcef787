// The page of one vehicle: its stream on one side, the parts that show it on the other. What came is shown at once; what
// only grows older is shown anew each second.

import { MANY, ONE } from "./api.js";
import { Car } from "./car.js";
import { Chart } from "./chart.js";
import { now } from "./clock.js";
import { make, setText } from "./dom.js";
import { ago, as, exactTime, span } from "./format.js";
import { Log } from "./log.js";
import { recall, recallList, remember } from "./memory.js";
import { isCar, MOTION, SPEED } from "./signals.js";
import { ageOf, valueOf, viewOf } from "./state.js";
import { follow } from "./stream.js";
import { Table } from "./table.js";

const OLD = 90_000; // a vehicle sends once a minute at least: an older value is worth a colour
const NOTE_SHOWN = 60_000;

const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  unavailable: "Unavailable",
  refused: "Refused",
};

const STATUS = { quiet: "Quiet", offline: "Offline" };

const LOST = {
  expired: "Away for longer than the platform keeps updates: shown afresh from the latest state.",
  foreign: "The platform's state was restored: shown afresh from what it has now.",
  gap: "Some updates were missed: shown afresh from the latest state.",
};

/** Shows the vehicle in `view`, and follows it. */
export function showVehicle(view, vehicle) {
  const part = (name) => view.querySelector(`[data-${name}]`);
  document.title = `${vehicle} · Fleetcast`;
  setText(part("vehicle"), vehicle);
  part("back").setAttribute("href", recallList());

  const remembered = recall(vehicle);
  const car = new Car(part);
  const chart = new Chart(part("chart"), part("chart-reading"), remembered?.points);
  const table = new Table({
    pane: part("signals-pane"),
    rows: part("signals-rows"),
    count: part("signals-count"),
    filter: part("signals-filter"),
  });
  const log = new Log({
    pane: part("log-pane"),
    rows: part("log-rows"),
    count: part("log-count"),
    pause: part("log-pause"),
    copy: part("log-copy"),
    said: part("log-said"),
  });
  const signals = [...view.querySelectorAll("[data-signal]")];
  const ages = [...view.querySelectorAll("[data-age]")];
  const sinces = [...view.querySelectorAll("[data-since]")];

  let shown = null;
  let wasLive = false;
  let noteUntil = 0;

  const stream = follow(
    vehicle,
    { state: connection, view: show, lost, event: (event) => log.add(event) },
    remembered,
  );
  if (remembered) show(viewOf(remembered.state), "remembered");
  setInterval(tick, 1000);
  window.addEventListener("pagehide", () => remember(vehicle, stream, chart.points));

  function show(next, kind) {
    shown = next;
    const sent = next.version > 0;
    part("waiting").hidden = sent;
    part("panels").hidden = !sent || !isCar(next);
    if (sent && !isCar(next)) part("signals-pane").open = true;
    for (const element of signals) setText(element, as[element.dataset.as](valueOf(next, element.dataset.signal)));
    if (sent) car.show(next);
    table.show(next);
    const speed = valueOf(next, SPEED);
    if (kind !== "remembered" && typeof speed === "number") chart.add(Date.parse(next.updatedAt), speed);
    alerts();
    tick();
  }

  function tick() {
    const time = now();
    chart.draw(time);
    if (performance.now() > noteUntil) part("note").hidden = true;
    if (!shown) return;
    for (const element of ages) age(element, shown.signals.get(element.dataset.age)?.at, time);
    for (const element of sinces) {
      const long = ageOf(valueOf(shown, element.dataset.since), time);
      setText(element, long === null ? "" : `${span(long)} ago`);
    }
    car.tick(time);
    table.tick(time);
    const heard = ageOf(shown.updatedAt, time);
    setText(part("heard"), heard === null ? "" : heard < 1000 ? "Last packet just now" : `Last packet ${ago(heard)}`);
    part("heard").classList.toggle("old", heard > OLD);
    part("heard").title = exactTime(shown.updatedAt);
    status(time);
    motion(time);
  }

  // Of one that sends as it should nothing need be said.
  function status(time) {
    const word = STATUS[shown.status] ?? "";
    const long = ageOf(shown.since, time);
    part("status").hidden = !word;
    part("status").dataset.status = shown.status;
    part("status").title = word ? `since ${exactTime(shown.since)}` : "";
    setText(part("status-word"), word);
    setText(part("status-since"), word && long > 0 ? `for ${span(long)}` : "");
  }

  function age(element, at, time) {
    const old = ageOf(at, time);
    setText(element, old === null ? "not sent" : ago(old));
    element.classList.toggle("old", old > OLD);
    element.title = exactTime(at);
  }

  // A derived signal is as old as its last change: since then the vehicle has been moving, or parked.
  function motion(time) {
    const signal = shown.signals.get(MOTION);
    const long = ageOf(signal?.at, time);
    setText(part("motion"), signal ? `${as.motion(signal.value)}${long > 0 ? ` for ${span(long)}` : ""}` : "");
    for (const element of view.querySelectorAll("[data-trip]"))
      element.classList.toggle("past", signal?.value === "parked");
  }

  // The list is for eyes; said aloud is only what has just become true.
  function alerts() {
    const list = part("alerts");
    const words = car.warnings;
    const before = [...list.querySelectorAll(".chip")].map((item) => item.textContent);
    list.hidden = !isCar(shown);
    if (list.childElementCount && words.join() === before.join()) return;
    // Always one line, so that what is below does not jump.
    list.replaceChildren(
      ...words.map((text) => make("li.chip", {}, text)),
      words.length ? "" : make("li.none", {}, "No warnings"),
    );
    const fresh = words.filter((text) => !before.includes(text));
    if (fresh.length) setText(part("announce"), `Warning: ${fresh.join(", ")}`);
    else setText(part("announce"), before.length && !words.length ? "No more warnings" : "");
  }

  function connection(state, reason, detail) {
    part("connection").dataset.state = state;
    view.dataset.state = state;
    setText(part("connection-word"), WORDS[state]);
    const words = why(state, reason, detail);
    part("why").hidden = !words;
    setText(part("why"), words);
    if (state === "live") wasLive = true;
  }

  function why(state, reason, detail) {
    if (reason === "no answer")
      return `There is no answer. If many tabs show ${MANY}, close some: a browser opens only a few streams to one server.`;
    if (state === "connecting" && reason) return "The stream could not be opened. The page tries again by itself.";
    if (state !== "live" && reason === "hidden")
      return "Nobody looked at this page for a while. What happened meanwhile is being caught up.";
    if (state === "reconnecting")
      return "The connection was lost. Shown is what was last known; what happens meanwhile will be caught up.";
    if (state === "unavailable")
      return `The platform cannot serve this ${ONE} now: the ${detail} does not answer. The page tries again by itself.`;
    if (state === "refused") return `The platform refuses this stream: ${detail}`;
    return "";
  }

  function lost(reason) {
    chart.break();
    if (!wasLive) return; // an old visit that cannot be continued is no news
    part("note").hidden = false;
    setText(part("note"), LOST[reason] ?? `Shown afresh from the latest state (${reason}).`);
    noteUntil = performance.now() + NOTE_SHOWN;
  }
}
