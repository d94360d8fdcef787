// The pane of raw events, for developers: the last 200 as they came, newest first. Paused, it stands still, and what
// comes meanwhile is kept. Nothing is drawn while it is closed.

import { count, timeOfDay } from "./format.js";
import { make, setAttribute, setText } from "./dom.js";

const KEPT = 200;

export class Log {
  #events = []; // newest first
  #waiting = []; // came while paused, newest first
  #paused = false;
  #parts;

  /** `parts`: {pane, rows, count, pause, copy, said}. */
  constructor(parts) {
    this.#parts = parts;
    parts.pane.addEventListener("toggle", () => this.#draw());
    parts.pause.addEventListener("click", () => this.#pause());
    parts.copy.addEventListener("click", () => this.#copy());
    this.#say();
  }

  /** {kind, id, data, note}, `data` as the text that came. */
  add(event) {
    const kept = { ...event, at: Date.now() };
    const into = this.#paused ? this.#waiting : this.#events;
    into.unshift(kept);
    into.splice(KEPT);
    if (!this.#paused && this.#parts.pane.open) {
      this.#parts.rows.prepend(row(kept));
      if (this.#parts.rows.childElementCount > KEPT) this.#parts.rows.lastElementChild.remove();
    }
    this.#say();
  }

  #draw() {
    this.#parts.rows.replaceChildren(...(this.#parts.pane.open ? this.#events.map(row) : []));
  }

  #pause() {
    this.#paused = !this.#paused;
    setAttribute(this.#parts.pause, "aria-pressed", String(this.#paused));
    if (!this.#paused) {
      this.#events = [...this.#waiting, ...this.#events].slice(0, KEPT);
      this.#waiting = [];
      this.#draw();
    }
    this.#say();
  }

  #say() {
    const more = this.#paused ? `, paused, ${this.#waiting.length} new` : "";
    setText(this.#parts.count, `${count(this.#events.length, "event")}${more}`);
  }

  async #copy() {
    const lines = this.#events.map(({ at, kind, id, data, note }) =>
      JSON.stringify({
        received: new Date(at).toISOString(),
        event: kind,
        id,
        note: note || undefined,
        data: parsed(data),
      }),
    );
    const copied = await toClipboard(lines.reverse().join("\n") + "\n");
    setText(
      this.#parts.said,
      copied
        ? `${count(lines.length, "event")} copied, one JSON object a line`
        : "The browser does not let this page copy",
    );
    setTimeout(() => setText(this.#parts.said, ""), 6000);
  }
}

function row(event) {
  const { at, kind, id, data, note } = event;
  const text = make("pre");
  const details = make(
    "details",
    {},
    make(
      "summary",
      {},
      make("span.at", {}, timeOfDay(at)),
      make(`span.kind.${kind}`, {}, kind),
      make("span.what", {}, summary(kind, data)),
      note ? make("span.remark", {}, note) : "",
      make("span.id", {}, id),
    ),
    text,
  );
  details.addEventListener("toggle", () => setText(text, details.open ? pretty(parsed(data)) : ""));
  return make("li", {}, details);
}

function summary(kind, data) {
  const content = parsed(data);
  if (kind === "reset") return `${content.reason}: ${content.from} to ${content.to}`;
  if (kind === "unavailable") return String(content.reason);
  const amount = count(Object.keys(content.signals ?? {}).length, "signal");
  return kind === "update"
    ? `version ${content.version} after ${content.prev}, ${amount}`
    : `version ${content.version}, ${amount}`;
}

// One line for each signal.
function pretty(value, depth = 0) {
  if (typeof value !== "object" || value === null || Array.isArray(value) || depth === 2) return JSON.stringify(value);
  const space = "  ".repeat(depth);
  const lines = Object.entries(value).map(
    ([name, one]) => `${space}  ${JSON.stringify(name)}: ${pretty(one, depth + 1)}`,
  );
  return `{\n${lines.join(",\n")}\n${space}}`;
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

// The clipboard interface exists only on https and localhost.
async function toClipboard(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
  }
  const area = make("textarea", { readonly: true, class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
