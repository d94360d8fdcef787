// The last minutes of one number as a line, drawn in pixels of its own width, so that text is never scaled.
// Time runs by the platform's clock. Where nothing came for long, or updates were lost, the line has a gap.

import { exactTime, timeOfDay } from "./format.js";

const NS = "http://www.w3.org/2000/svg";
const WINDOW = 5 * 60_000;
const QUIET = 90_000; // longer without a value: unknown, not a straight line
const HEIGHT = 168;
const LEFT = 34;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 24;
const LEAST = 20; // the axis goes up to this at least
const STEPS = [5, 10, 20, 25, 50, 100, 200];

export class Chart {
  /** [time in ms, value], or null where the line breaks. Oldest first. */
  points;

  #figure;
  #reading;
  #svg = svg("svg", { class: "plot", role: "img" });
  #width = 0;
  #pointer = null;

  constructor(figure, reading, points = []) {
    this.#figure = figure;
    this.#reading = reading;
    this.points = points;
    figure.append(this.#svg);
    new ResizeObserver(([entry]) => {
      this.#width = Math.floor(entry.contentRect.width);
      this.draw(this.#now);
    }).observe(figure);
    this.#svg.addEventListener("pointermove", (event) => this.#read(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#read(null));
  }

  #now = 0;

  add(time, value) {
    const last = this.points.at(-1);
    if (last && time <= last[0]) return;
    if (last && time - last[0] > QUIET) this.points.push(null);
    this.points.push([time, value]);
  }

  break() {
    if (this.points.at(-1)) this.points.push(null);
  }

  draw(now) {
    this.#now = now;
    while (this.points.length > 1 && (!this.points[0] || (this.points[1] ?? this.points[2] ?? [0])[0] < now - WINDOW)) {
      this.points.shift();
    }
    if (this.#width < 80 || !now) return;
    const shown = this.points.filter((point) => point && point[0] >= now - WINDOW);
    const highest = Math.max(LEAST, ...shown.map(([, value]) => value));
    const step = STEPS.find((one) => highest / one <= 4) ?? 500;
    const top = Math.max(step * Math.ceil(highest / step), step);
    const x = (time) => LEFT + ((time - now + WINDOW) / WINDOW) * (this.#width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const children = [clip(this.#width)];
    for (let value = 0; value <= top; value += step) {
      children.push(
        svg("line", { class: value ? "grid" : "axis", x1: LEFT, x2: this.#width - RIGHT, y1: y(value), y2: y(value) }),
      );
      children.push(text(value, { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }));
    }
    for (let minutes = 5; minutes >= 0; minutes -= 1) {
      const at = x(now - minutes * 60_000);
      children.push(svg("line", { class: "tick", x1: at, x2: at, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
      const anchor = minutes ? "middle" : "end";
      const words = minutes ? `−${minutes} min` : "now";
      if (minutes % 2 === 1 || minutes === 0)
        children.push(text(words, { x: minutes ? at : at + 6, y: HEIGHT - 6, "text-anchor": anchor }));
    }
    const lines = svg("g", { "clip-path": "url(#plot-area)" });
    for (const run of runs(this.points)) {
      const path = run
        .map(([time, value], index) => `${index ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`)
        .join("");
      const [first, last] = [x(run[0][0]).toFixed(1), x(run.at(-1)[0]).toFixed(1)];
      lines.append(svg("path", { class: "area", d: `${path}L${last} ${y(0)}L${first} ${y(0)}Z` }));
      lines.append(svg("path", { class: "line", d: path }));
    }
    children.push(lines);
    const newest = shown.at(-1);
    if (newest) children.push(svg("circle", { class: "newest", cx: x(newest[0]), cy: y(newest[1]), r: 3.5 }));
    const pointed = this.#pointed(shown, x);
    if (pointed) {
      children.push(
        svg("line", { class: "cursor", x1: x(pointed[0]), x2: x(pointed[0]), y1: TOP, y2: HEIGHT - BOTTOM }),
      );
      children.push(svg("circle", { class: "newest", cx: x(pointed[0]), cy: y(pointed[1]), r: 4.5 }));
    }
    for (const [name, value] of Object.entries({
      viewBox: `0 0 ${this.#width} ${HEIGHT}`,
      width: this.#width,
      height: HEIGHT,
    })) {
      this.#svg.setAttribute(name, value);
    }
    this.#svg.replaceChildren(...children);
    this.#say(shown, pointed);
  }

  // In words, for those who do not see the line: where it is, its highest, its lowest.
  #say(shown, pointed) {
    const values = shown.map(([, value]) => value);
    const words = shown.length
      ? `highest ${Math.round(Math.max(...values))}, lowest ${Math.round(Math.min(...values))} km/h`
      : "no value in this time";
    this.#svg.setAttribute("aria-label", `Speed over the last 5 minutes: ${words}`);
    const reading = pointed ? `${timeOfDay(pointed[0])}: ${Math.round(pointed[1])} km/h` : words;
    if (this.#reading.textContent !== reading) this.#reading.textContent = reading;
    this.#reading.title = pointed ? exactTime(pointed[0]) : "";
  }

  #read(offset) {
    this.#pointer = offset;
    this.draw(this.#now);
  }

  #pointed(shown, x) {
    if (this.#pointer === null || !shown.length) return null;
    const distance = (point) => Math.abs(x(point[0]) - this.#pointer);
    return shown.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  }
}

function runs(points) {
  const found = [[]];
  for (const point of points) point ? found.at(-1).push(point) : found.push([]);
  return found.filter((run) => run.length);
}

function clip(width) {
  const path = svg("clipPath", { id: "plot-area" });
  path.append(svg("rect", { x: LEFT, y: 0, width: Math.max(0, width - LEFT), height: HEIGHT }));
  return path;
}

function text(words, attributes) {
  const element = svg("text", attributes);
  element.textContent = words;
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
