// The car: its drawing from above, the same in words beside it, and what there is to warn of. The drawing is for eyes
// only; each of its facts stands in the lists, where a screen reader finds it.

import { keyed, make, setAttribute, setText } from "./dom.js";
import { ago, as, exactTime } from "./format.js";
import {
  belted,
  CHARGE,
  CHARGING,
  DOORS,
  doorLocked,
  doorOpen,
  DRIVER_POSITION,
  FRONT_TRUNK,
  FUEL,
  HOOD,
  occupancy,
  pressure,
  pressureLow,
  SEATS,
  SPEED,
  TRUNK,
  TRUNK_LOCKED,
  TYRES_LOW,
  UNBELTED,
  WHEELS,
} from "./signals.js";
import { ageOf, valueOf } from "./state.js";

const MOVING = 5; // km/h: an open door is then a danger, not an arrival
const LOW_LEVEL = 15; // percent of charge or fuel
const OLD = 90_000;

export class Car {
  /** What there is to warn of, in words. */
  warnings = [];

  #part;
  #svg = null;
  #view = null;

  constructor(part) {
    this.#part = part;
    this.#fetch();
  }

  show(view) {
    this.#view = view;
    this.#showEnergy();
    const tyres = tyresOf(view);
    const doors = doorsOf(view);
    const seats = seatsOf(view);
    fill(this.#part("tyres"), tyres);
    fill(this.#part("doors"), doors);
    fill(this.#part("seats"), seats);
    this.warnings = warningsOf([...tyres, ...doors, ...seats]);
    if (this.#svg) this.#draw();
  }

  tick(time) {
    for (const name of ["tyres", "doors", "seats"]) {
      for (const item of this.#part(name).children) {
        const age = ageOf(item.dataset.at, time);
        setText(item.lastElementChild, age === null ? "" : ago(age));
        item.lastElementChild.classList.toggle("old", age > OLD);
        item.lastElementChild.title = exactTime(item.dataset.at);
      }
    }
  }

  #showEnergy() {
    const view = this.#view;
    const charge = valueOf(view, CHARGE);
    const path = charge === undefined ? FUEL : CHARGE;
    const level = valueOf(view, path);
    const charging = valueOf(view, CHARGING) === true;
    setText(this.#part("energy-word"), path === FUEL ? "Fuel" : "Charge");
    setText(this.#part("energy-value"), as.percent(level));
    setText(this.#part("energy-hint"), charging ? "charging" : level < LOW_LEVEL ? "low" : "");
    this.#part("energy").classList.toggle("low", level < LOW_LEVEL);
    this.#part("energy").classList.toggle("charging", charging);
    this.#part("energy-bar").style.width = `${Math.min(Math.max(Number(level) || 0, 0), 100)}%`;
    this.#part("energy-age").dataset.age = path;
  }

  // Fetched, not an <img>: its parts must be reached, and styled for light and dark.
  async #fetch() {
    try {
      const response = await fetch("/static/car.svg");
      const drawn = new DOMParser().parseFromString(await response.text(), "image/svg+xml").documentElement;
      if (drawn.querySelector("parsererror")) return;
      this.#svg = document.importNode(drawn, true);
      setAttribute(this.#svg, "aria-hidden", "true");
      this.#part("drawing").replaceChildren(this.#svg);
      if (this.#view) this.#draw();
    } catch {
      // Without the drawing the lists still say all of it.
    }
  }

  #draw() {
    const view = this.#view;
    const find = (kind, name) => this.#svg.querySelector(`[data-${kind}="${name}"]`);
    // Left and right are the car's own. Which of them is the driver's, most cars do not say: then it is the left.
    const driverRight = valueOf(view, DRIVER_POSITION) === "RIGHT";
    const spot = (name) => {
      const [row, side] = name.split(".");
      const number = row.slice(-1);
      if (side === "Middle") return `mid${number}`;
      return (side === "DriverSide") !== driverRight ? `left${number}` : `right${number}`;
    };
    this.#svg.classList.toggle("driver-right", driverRight);
    this.#svg.classList.toggle("charging", valueOf(view, CHARGING) === true);
    for (const wheel of Object.keys(WHEELS)) {
      const known = valueOf(view, pressure(wheel));
      const low = isLow(view, wheel);
      find("wheel", wheel).classList.toggle("low", low);
      const label = find("label", wheel);
      label.classList.toggle("low", low);
      setText(label.querySelector(".number"), as.whole(known));
      setText(label.querySelector(".unit"), low ? "kPa, low" : "kPa");
    }
    for (const door of Object.keys(DOORS)) {
      const drawn = find("door", spot(door));
      drawn.classList.toggle("open", valueOf(view, doorOpen(door)) === true);
      drawn.classList.toggle("danger", valueOf(view, SPEED) >= MOVING);
    }
    for (const seat of Object.keys(SEATS)) {
      const drawn = find("seat", spot(seat));
      const { occupied, fastened } = seatOf(view, seat);
      drawn.classList.toggle("absent", valueOf(view, occupancy(seat)) === undefined && fastened === undefined);
      drawn.classList.toggle("occupied", occupied);
      drawn.classList.toggle("belted", fastened === true);
      drawn.classList.toggle("unbelted", occupied && fastened === false);
    }
    for (const [lid, open] of Object.entries(lidsOf(view))) {
      find("lid", lid).classList.toggle("open", open === true);
      find("lid-said", lid).classList.toggle("shown", open === true);
    }
  }
}

// What is warned of, by kind: a sentence for each. No values in them, or each change would be said aloud.
function warningsOf(lines) {
  const kinds = new Map();
  for (const { warning } of lines) {
    if (warning) kinds.set(warning[0], [...(kinds.get(warning[0]) ?? []), warning[1].toLowerCase()]);
  }
  return [...kinds].map(([kind, names]) => `${kind}: ${names.join(", ")}`);
}

// Each of these gives lines for a list: {key, name, words, at, mark, warning}; a warning is its kind and what it is of.

function tyresOf(view) {
  return Object.entries(WHEELS)
    .filter(([wheel]) => view.signals.has(pressure(wheel)))
    .map(([wheel, name]) => {
      const low = isLow(view, wheel);
      const words = as.kpa(valueOf(view, pressure(wheel)));
      const warning = low ? ["Tyre low", name] : undefined;
      return {
        key: wheel,
        name,
        words: low ? `${words}, low` : words,
        at: atOf(view, pressure(wheel)),
        mark: low && "warn",
        warning,
      };
    });
}

function doorsOf(view) {
  const moving = valueOf(view, SPEED) >= MOVING;
  const line = (key, name, path, lockedPath) => {
    const open = valueOf(view, path);
    const locked = { true: ", locked", false: ", unlocked" }[valueOf(view, lockedPath)] ?? "";
    const words = open === true ? "Open" : open === false ? `Closed${locked}` : "–";
    const danger = open === true && moving;
    const warning = danger ? ["Open while moving", name] : undefined;
    return { key, name, words, at: atOf(view, path), mark: danger ? "warn" : open === true && "open", warning };
  };
  const known = Object.entries(DOORS).filter(([door]) => view.signals.has(doorOpen(door)));
  const lines = known.map(([door, name]) => line(door, name, doorOpen(door), doorLocked(door)));
  const lids = [
    [HOOD, "Hood"],
    [FRONT_TRUNK, "Front trunk"],
    [TRUNK, "Trunk", TRUNK_LOCKED],
  ];
  return [
    ...lines,
    ...lids.filter(([path]) => view.signals.has(path)).map(([path, name, locked]) => line(path, name, path, locked)),
  ];
}

function seatsOf(view) {
  const unbelted = valueOf(view, UNBELTED);
  const known = Object.entries(SEATS).filter(
    ([seat]) => view.signals.has(occupancy(seat)) || view.signals.has(belted(seat)),
  );
  return known.map(([seat, name]) => {
    const { occupied, fastened } = seatOf(view, seat);
    const belt = { true: "belted", false: "not belted" }[fastened] ?? "belt unknown";
    const empty = valueOf(view, occupancy(seat)) === "EMPTY";
    const words = empty ? "Empty" : occupied ? (fastened ? "Belted" : `Occupied, ${belt}`) : belt;
    const danger = Array.isArray(unbelted) && unbelted.includes(seat);
    const warning = danger ? ["Not belted", name] : undefined;
    const mark = danger ? "warn" : occupied && fastened && "ok";
    return { key: seat, name, words, at: newer(atOf(view, occupancy(seat)), atOf(view, belted(seat))), mark, warning };
  });
}

function fill(list, lines) {
  const create = () => make("li", {}, make("span.name"), make("span.words"), make("span.age"));
  keyed(
    list,
    lines,
    (line) => line.key,
    create,
    (item, line) => {
      item.dataset.at = line.at ?? "";
      item.dataset.mark = line.mark || "";
      setText(item.children[0], line.name);
      setText(item.children[1], line.words);
    },
  );
}

function isLow(view, wheel) {
  const low = valueOf(view, pressureLow(wheel));
  const all = valueOf(view, TYRES_LOW);
  return low === true || (low === undefined && Array.isArray(all) && all.includes(wheel));
}

function seatOf(view, seat) {
  const fastened = valueOf(view, belted(seat));
  const status = valueOf(view, occupancy(seat));
  return { occupied: status === "OCCUPIED" || (status === undefined && fastened === true), fastened };
}

function lidsOf(view) {
  return { hood: valueOf(view, HOOD) || valueOf(view, FRONT_TRUNK), trunk: valueOf(view, TRUNK) };
}

function atOf(view, path) {
  return view.signals.get(path)?.at;
}

function newer(one, other) {
  return (Date.parse(one ?? "") || 0) >= (Date.parse(other ?? "") || 0) ? one : other;
}
