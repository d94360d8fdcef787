// The table of all signals, by path: what the car's drawing shows, and all else that the vehicle sends.

import { keyed, make, setText } from "./dom.js";
import { ago, count, exactTime, plain } from "./format.js";
import { ageOf } from "./state.js";

export class Table {
  #parts;
  #view = null;

  /** `parts`: {pane, rows, count, filter}. */
  constructor(parts) {
    this.#parts = parts;
    parts.pane.addEventListener("toggle", () => this.#draw());
    parts.filter.addEventListener("input", () => this.#draw());
  }

  show(view) {
    this.#view = view;
    setText(this.#parts.count, count(view.signals.size, "signal"));
    this.#draw();
  }

  tick(now) {
    if (!this.#parts.pane.open) return;
    for (const row of this.#parts.rows.children) {
      const { at, skewed } = this.#view.signals.get(row.dataset.key) ?? {};
      const age = ago(ageOf(at, now));
      setText(row.cells[2], skewed ? `received ${age}` : age); // when it was observed is not known
      row.cells[2].title = skewed ? `received ${exactTime(at)}; the sender's clock is wrong` : exactTime(at);
    }
  }

  #draw() {
    if (!this.#view || !this.#parts.pane.open) return;
    const wanted = this.#parts.filter.value.trim().toLowerCase();
    const paths = [...this.#view.signals.keys()].filter((path) => path.toLowerCase().includes(wanted)).sort();
    keyed(
      this.#parts.rows,
      paths,
      (path) => path,
      create,
      (row, path) => {
        const text = plain(this.#view.signals.get(path).value);
        if (row.cells[1].textContent === text) return;
        row.classList.toggle("changed", row.cells[1].textContent !== "");
        setText(row.cells[1], text);
      },
    );
  }
}

// "Vehicle.Speed" may break after a dot.
function breakable(path) {
  return path.split(/(?<=\.)/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));
}

function create(path) {
  const row = make("tr", {}, make("th", { scope: "row" }, ...breakable(path)), make("td.value"), make("td.age"));
  row.addEventListener("animationend", () => row.classList.remove("changed"));
  return row;
}
