// One vehicle's stream, kept alive. What an EventSource leaves to its user is done here:
//
// - readyState 0 after an error: the browser comes back by itself, with the last id. That is "reconnecting", no failure.
// - readyState 2: the browser has given up for good. A new EventSource, after a back-off with jitter, with the last id in
//   the query, since a new one sends no Last-Event-ID.
// - An opening that never ends (too many streams in one browser, a dead line): a time limit.
// - Silence: keep-alives are comments, which a page never sees. After a while the platform is asked whether there is
//   anything newer than the last id; only if there is, or if it does not answer, the stream is opened anew.
// - `unavailable` comes in a stream that opens well and ends at once. So an opening alone does not yet mean live.
// - A browser has six connections to one server (HTTP/1.1), and a stream takes one: in a tab that nobody looks at, it is
//   closed after a while. Looked at again, it goes on with the last id, and what was missed is replayed.
// - Every update must follow the version before it. If one does not, the stream is opened anew at the last one that did;
//   if that does not mend it, without an id: from a snapshot.

import { eventsOf, newerThan, reasonOf } from "./api.js";
import { afterUpdate, fromSnapshot } from "./state.js";

const OPENING_LIMIT = 25_000;
const SETTLED = 600; // an `unavailable` follows its opening at once; what has been quiet this long is live
const SILENCE = 30_000;
const LATE = 4_000; // what is newer may be on its way
const UNSEEN = 60_000;
const LOOK_EVERY = 2_000;
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
const GAPS_BEFORE_SNAPSHOT = 2;

/**
 * `on` has the functions
 *   state(word, reason)   connecting, live, reconnecting, unavailable, refused
 *   view(view, kind)      the new view, and the kind of event that made it: snapshot or update
 *   lost(reason)          updates were missed for good; a snapshot follows: expired, foreign, gap
 *   event({kind, id, data, note})   everything that came, as text; `note` says what was made of it
 */
export class Stream {
  lastId;
  view;

  #vehicle;
  #on;
  #source = null;
  #state = "";
  #reason = "";
  #timers = {};
  #pauses = 0;
  #gaps = 0;
  #inReset = false;
  #heard = 0;
  #patience = SILENCE;
  #checking = null;
  #closed = false;
  #outside = new AbortController();

  /** `remembered`: {lastId, view} of an earlier visit, from where it goes on. */
  constructor(vehicle, on, remembered = null) {
    this.#vehicle = vehicle;
    this.#on = on;
    this.lastId = remembered?.lastId ?? "";
    this.view = remembered?.view ?? null;
    const listen = (target, name, act) => target.addEventListener(name, act, { signal: this.#outside.signal });
    listen(window, "online", () => this.#wake());
    listen(document, "visibilitychange", () => this.#seen(document.visibilityState === "visible"));
    // A page that is kept for the back button must not hold a stream; shown again, it goes on where it was.
    listen(window, "pagehide", () => this.#drop());
    listen(window, "pageshow", (event) => event.persisted && this.#resume());
    this.#timers.look = setInterval(() => this.#look(), LOOK_EVERY);
    this.#says("connecting");
    this.#open();
    if (document.visibilityState === "hidden") this.#seen(false);
  }

  close() {
    this.#closed = true;
    this.#outside.abort();
    clearInterval(this.#timers.look);
    clearTimeout(this.#timers.unseen);
    this.#drop();
  }

  // Opening

  #open() {
    this.#drop();
    const source = new EventSource(eventsOf(this.#vehicle, this.lastId));
    this.#source = source;
    this.#inReset = false;
    this.#heard = Date.now();
    this.#patience = SILENCE * (0.75 + Math.random() / 2);
    this.#limitOpening();
    source.onopen = () => this.#opened();
    source.onerror = () => this.#failed(source);
    for (const kind of ["snapshot", "update", "reset", "unavailable"]) {
      source.addEventListener(kind, (event) => this.#take(kind, event));
    }
  }

  #drop() {
    this.#source?.close();
    this.#source = null;
    this.#checking?.abort();
    this.#checking = null;
    for (const name of ["opening", "settled", "pause"]) clearTimeout(this.#timers[name]);
    this.#timers.pause = undefined;
  }

  #limitOpening() {
    clearTimeout(this.#timers.opening);
    this.#timers.opening = setTimeout(() => this.#again("no answer"), OPENING_LIMIT);
  }

  #opened() {
    clearTimeout(this.#timers.settled);
    this.#heard = Date.now();
    if (!this.view) return; // live begins with the snapshot, for which the limit holds too
    clearTimeout(this.#timers.opening);
    this.#timers.settled = setTimeout(() => this.#live(), SETTLED);
  }

  #failed(source) {
    clearTimeout(this.#timers.settled);
    if (this.#inReset) {
      this.#again("cut before the snapshot");
    } else if (source.readyState === EventSource.CLOSED) {
      this.#again("the stream was refused");
      this.#askWhy();
    } else {
      if (this.#state === "live") this.#says("reconnecting");
      this.#limitOpening();
    }
  }

  // A new EventSource after a pause. Jittered, or all phones of an edge that died would come at the same moment.
  #again(why) {
    this.#drop();
    const longest = Math.min(FIRST_PAUSE * 2 ** this.#pauses++, LONGEST_PAUSE);
    if (this.#state !== "unavailable" && this.#state !== "refused") {
      this.#says(this.#state === "connecting" ? "connecting" : "reconnecting", why);
    }
    this.#timers.pause = setTimeout(() => this.#open(), longest * (0.5 + Math.random() / 2));
  }

  // An EventSource hides the status; a plain request shows it. A 404 says only that the vehicle never sent.
  async #askWhy() {
    const response = await newerThan(this.#vehicle, this.lastId).catch(() => null);
    if (this.#closed || !response || response.ok || [304, 404].includes(response.status)) return;
    if (response.status < 500) {
      this.#pauses = Math.max(this.#pauses, 4); // asking often will not mend it
      this.#says("refused", await reasonOf(response));
    }
  }

  // What comes

  #take(kind, event) {
    this.#heard = Date.now();
    clearTimeout(this.#timers.opening);
    const note = this.#follow(kind, event);
    this.#on.event({ kind, id: event.lastEventId, data: event.data, note });
  }

  #follow(kind, event) {
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return this.#reload("unreadable");
    }
    if (kind === "unavailable") {
      clearTimeout(this.#timers.settled);
      this.#says("unavailable", data.reason);
      return "";
    }
    if (kind === "reset") {
      // Until the snapshot is here nothing is known. Should the line break between the two, the browser's own way back
      // could go on as if the snapshot had been seen, so it is not taken.
      this.#inReset = true;
      this.view = null;
      this.lastId = "";
      this.#on.lost(data.reason);
      return "";
    }
    if (kind === "update" && this.view && data.version <= this.view.version) return "had it already";
    const view = kind === "snapshot" ? fromSnapshot(data) : afterUpdate(this.view, data);
    if (!view) return this.#reload("gap");
    this.#inReset = false;
    this.view = view;
    this.lastId = event.lastEventId;
    this.#gaps = 0;
    this.#on.view(view, kind);
    this.#live();
    return "";
  }

  #reload(why) {
    if (++this.#gaps >= GAPS_BEFORE_SNAPSHOT || !this.view) {
      this.view = null;
      this.lastId = "";
      this.#on.lost("gap");
    }
    this.#says("reconnecting", why);
    if (this.#gaps > GAPS_BEFORE_SNAPSHOT) this.#again(why);
    else this.#open();
    return `${why}: the stream is opened anew`;
  }

  #live() {
    clearTimeout(this.#timers.settled);
    this.#pauses = 0;
    this.#says("live");
  }

  #says(state, reason = "") {
    if (this.#closed || (state === this.#state && reason === this.#reason)) return;
    this.#state = state;
    this.#reason = reason;
    this.#on.state(state, reason);
  }

  // The watchdog

  #look() {
    const silent = Date.now() - this.#heard;
    if (this.#state === "live" && silent > this.#patience && document.visibilityState === "visible") this.#check();
  }

  #seen(visible) {
    clearTimeout(this.#timers.unseen);
    if (visible) this.#wake();
    else this.#timers.unseen = setTimeout(() => this.#rest(), UNSEEN);
  }

  #rest() {
    this.#drop();
    this.#says("reconnecting", "unseen");
  }

  #resume() {
    this.#says("reconnecting", "unseen");
    this.#open();
  }

  // Back from sleep, from another tab or from a tunnel: a dead line may look open for a long time.
  #wake() {
    if (!this.#source || this.#timers.pause !== undefined) this.#open();
    else if (this.#state === "live") this.#check();
  }

  async #check() {
    if (this.#checking) return;
    if (!this.view?.version) return this.#open(); // there is no latest state to compare with
    this.#checking = new AbortController();
    const { signal } = this.#checking;
    const limit = setTimeout(() => this.#checking?.abort(), OPENING_LIMIT);
    try {
      const asked = this.lastId;
      const response = await newerThan(this.#vehicle, asked, signal);
      const newer = response.status === 200 || response.status === 404; // 404: all was forgotten
      if (newer) await new Promise((resolve) => setTimeout(resolve, LATE));
      if (this.#checking?.signal !== signal) return;
      if (newer && this.lastId === asked) this.#open();
      this.#heard = Date.now();
    } catch {
      if (this.#checking?.signal !== signal) return; // the stream was opened anew meanwhile
      this.#says("reconnecting", "the platform does not answer");
      this.#open();
    } finally {
      clearTimeout(limit);
      if (this.#checking?.signal === signal) this.#checking = null;
    }
  }
}
