// The fleet list: a page of vehicles by id, asked for anew every few seconds. Rows are kept, so nothing flickers and
// the focus stays where it is. Search and page are in the address, so they survive a reload and the way back.

import { fleet, MANY, ONE, pageOf } from "./api.js";
import { now } from "./clock.js";
import { keyed, make, setText } from "./dom.js";
import { ago, as, count, exactTime, place, span } from "./format.js";
import { rememberList } from "./memory.js";
import { CHARGE, CHARGING, FUEL, MOTION, SEATS, SPEED, TYRES_LOW, UNBELTED } from "./signals.js";
import { ageOf } from "./state.js";

const LIMIT = 50;
const EVERY = 3_000;
const LONGEST = 20_000;
const TYPING = 250;
const QUIET = 90_000; // a vehicle sends once a minute at least
const SIGNALS = [MOTION, SPEED, CHARGE, CHARGING, FUEL, TYRES_LOW, UNBELTED];

/** Shows the fleet in `view`, and keeps it up to date. */
export function showFleet(view) {
  new Fleet(view).start();
}

class Fleet {
  #parts = {};
  #search = "";
  #afters = [""]; // where each page so far began; the last one is shown
  #next = null;
  #vehicles = [];
  #asked = null;
  #timer;
  #pause = EVERY;
  #answered = 0;
  #announce = true;

  constructor(view) {
    for (const name of [
      "summary",
      "search",
      "trouble",
      "found",
      "rows",
      "empty",
      "pages",
      "previous",
      "next",
      "range",
    ]) {
      this.#parts[name] = view.querySelector(`[data-${name}]`);
    }
    this.#parts.input = this.#parts.search.elements.search;
  }

  start() {
    const { search, input, previous, next } = this.#parts;
    document.title = "Fleet · Fleetcast";
    this.#fromAddress(history.state);
    let typing;
    const searched = () => {
      clearTimeout(typing);
      if (input.value.trim() !== this.#search) this.#go({ search: input.value.trim(), afters: [""] }, "replaceState");
    };
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(searched, TYPING);
    });
    search.addEventListener("submit", (event) => {
      event.preventDefault();
      searched();
    });
    next.addEventListener("click", () =>
      this.#go({ search: this.#search, afters: [...this.#afters, this.#next] }, "pushState"),
    );
    previous.addEventListener("click", () => {
      const before = this.#afters.slice(0, -1);
      this.#go({ search: this.#search, afters: before.length ? before : [""] }, "pushState");
    });
    window.addEventListener("popstate", (event) => {
      this.#fromAddress(event.state);
      this.#load();
    });
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#load());
    window.addEventListener("online", () => this.#load());
    setInterval(() => this.#tick(), 1000);
    this.#load();
  }

  // Where we are

  #fromAddress(state) {
    const query = new URLSearchParams(location.search);
    const after = query.get("after") ?? "";
    this.#search = query.get("search") ?? "";
    this.#afters = state?.afters ?? (after ? ["", after] : [""]);
    this.#parts.input.value = this.#search;
    this.#remember();
  }

  #go({ search, afters }, how) {
    const query = new URLSearchParams();
    if (search) query.set("search", search);
    if (afters.at(-1)) query.set("after", afters.at(-1));
    history[how]({ afters }, "", query.size ? `/?${query}` : "/");
    this.#search = search;
    this.#afters = afters;
    this.#announce = true;
    this.#remember();
    if (how === "pushState") window.scrollTo(0, 0);
    this.#load();
  }

  #remember() {
    rememberList(location.pathname + location.search);
  }

  // Asking

  async #load() {
    clearTimeout(this.#timer);
    this.#asked?.abort();
    const abort = (this.#asked = new AbortController());
    const limit = setTimeout(() => abort.abort(new Error("no answer")), 15_000);
    try {
      const query = { search: this.#search, after: this.#afters.at(-1), limit: LIMIT, signals: SIGNALS };
      const { vehicles, next } = await fleet({ ...query, abort: abort.signal });
      if (this.#asked !== abort) return;
      this.#vehicles = vehicles;
      this.#next = next;
      this.#answered = Date.now();
      this.#pause = EVERY;
      this.#draw();
    } catch (error) {
      if (this.#asked !== abort) return; // a newer question stands
      this.#pause = Math.min(this.#pause * 2, LONGEST);
      this.#trouble(error);
    } finally {
      clearTimeout(limit);
    }
    if (document.visibilityState === "visible") {
      this.#timer = setTimeout(() => this.#load(), this.#pause * (0.8 + Math.random() * 0.4));
    }
  }

  #trouble(error) {
    const shown = this.#answered
      ? " Shown is what was last known; the page tries again by itself."
      : " The page tries again by itself.";
    const reason =
      error instanceof TypeError ? "The platform cannot be reached." : `The list cannot be had now: ${error.message}.`;
    this.#parts.trouble.hidden = false;
    setText(this.#parts.trouble, reason + shown);
  }

  // Showing

  #draw() {
    const { rows, trouble, empty, found, previous, next, range, pages } = this.#parts;
    trouble.hidden = true;
    setText(trouble, "");
    const vehicles = this.#vehicles;
    // Where nothing is a car, the columns of a car would only be empty.
    if (vehicles.length) rows.parentElement.classList.toggle("plain", !vehicles.some(isCar));
    keyed(rows, vehicles, (one) => one.vehicle, createRow, updateRow);
    this.#tick();
    const first = this.#afters.length === 1;
    empty.hidden = vehicles.length > 0;
    if (!vehicles.length) {
      setText(
        empty,
        this.#search
          ? `No ${ONE}'s id contains “${this.#search}”.`
          : first
            ? `No ${ONE} has sent a packet yet.`
            : `No more ${MANY}.`,
      );
    }
    previous.disabled = first;
    next.disabled = this.#next === null;
    pages.hidden = first && this.#next === null;
    setText(range, vehicles.length ? `${vehicles[0].vehicle} to ${vehicles.at(-1).vehicle}` : "");
    if (this.#announce)
      setText(
        found,
        vehicles.length
          ? `${count(vehicles.length, ONE, MANY)} listed${this.#next === null ? "" : ", there are more"}`
          : empty.textContent,
      );
    this.#announce = false;
  }

  #tick() {
    const time = now();
    for (const row of this.#parts.rows.children) tickRow(row, time);
    const is = (motion) => this.#vehicles.filter((one) => valueOf(one, MOTION) === motion).length;
    const warned = this.#vehicles.filter((one) => warningsOf(one).length).length;
    const quiet = this.#vehicles.filter((one) => !isLive(one.status, ageOf(one.updated_at, time))).length;
    const words = [
      [this.#vehicles.length, "listed"],
      [is("moving"), "moving"],
      [is("parked"), "parked"],
      [quiet, "quiet"],
      [warned, "with warnings"],
    ];
    const shown = words.filter(([amount], index) => amount || !index).map(([amount, word]) => `${amount} ${word}`);
    setText(this.#parts.summary, this.#vehicles.length ? shown.join(" · ") : "");
  }
}

function createRow({ vehicle }) {
  const cells = ["id", "presence", "motion", "energy", "warnings"].map((name) => make(`span.${name}`));
  cells[0].append(vehicle);
  cells[1].append(make("span.dot", { "aria-hidden": "true" }), make("span.word"));
  cells[3].append(make("span.word"), make("span.bar", { "aria-hidden": "true" }, make("span")));
  // A comma between the cells: read as one link, they would run together.
  const spaced = cells.flatMap((cell) => [cell, make("span.unseen", {}, ", ")]).slice(0, -1);
  return make("li", {}, make("a.row", { href: pageOf(vehicle) }, ...spaced));
}

function updateRow(item, one) {
  const cell = (name) => item.querySelector(`.${name}`);
  item.dataset.at = one.updated_at;
  item.dataset.status = one.status ?? "";
  cell("presence").title = exactTime(one.updated_at);
  const motion = valueOf(one, MOTION);
  const speed = valueOf(one, SPEED);
  setText(cell("motion"), motion === "moving" ? `${as.motion(motion)}, ${as.whole(speed)} km/h` : as.motion(motion));
  cell("motion").className = `motion ${motion ?? ""}`;
  drawEnergy(cell("energy"), one);
  const warnings = warningsOf(one);
  if (cell("warnings").textContent !== warnings.join(", ")) {
    const chips = warnings.flatMap((words) => [make("span.chip", {}, words), make("span.unseen", {}, ", ")]);
    cell("warnings").replaceChildren(...chips.slice(0, -1));
  }
}

function drawEnergy(cell, one) {
  const charge = valueOf(one, CHARGE);
  const level = charge ?? valueOf(one, FUEL);
  const known = typeof level === "number";
  const word = charge === undefined ? "fuel" : valueOf(one, CHARGING) === true ? "charging" : "charge";
  setText(cell.querySelector(".word"), known ? `${as.percent(level)} ${word}` : "–");
  const bar = cell.querySelector(".bar");
  bar.hidden = !known;
  bar.classList.toggle("low", known && level < 15);
  bar.firstElementChild.style.width = `${known ? Math.min(Math.max(level, 0), 100) : 0}%`;
}

function tickRow(item, time) {
  const age = ageOf(item.dataset.at, time);
  const { status } = item.dataset;
  const live = isLive(status, age);
  const presence = item.querySelector(".presence");
  presence.classList.toggle("live", live);
  setText(presence.querySelector(".word"), live ? `Live, ${ago(Math.max(0, age))}` : `${status === "offline" ? "Offline" : "Quiet"} for ${span(age ?? 0)}`);
}

// As the platform says; where it says nothing, by the age of what is shown.
function isLive(status, age) {
  return status ? status === "live" : age !== null && age <= QUIET;
}

function warningsOf(one) {
  const tyres = list(valueOf(one, TYRES_LOW)).map((wheel) => `Tyre low: ${place(wheel)}`);
  const seats = list(valueOf(one, UNBELTED)).map((seat) => `Unbelted: ${(SEATS[seat] ?? place(seat)).toLowerCase()}`);
  return [...tyres, ...seats];
}

function isCar(one) {
  return SIGNALS.some((path) => valueOf(one, path) !== undefined);
}

function valueOf(one, path) {
  return one.signals[path]?.value;
}

function list(value) {
  return Array.isArray(value) ? value : [];
}
