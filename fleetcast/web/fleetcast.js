// Fleetcast in an app: follows a vehicle's event stream and keeps its state. One file, no dependencies; browsers, and Node 18
// or newer (there save it as fleetcast.mjs). docs/apps.md shows it in use, docs/protocol.md is the contract that it keeps to:
//
// - snapshot replaces the state, update is a JSON Merge Patch on it, status is one that changes no signal but says whether the
//   vehicle is live, quiet or offline, reset says that updates were lost, unavailable is a temporary failure told in band.
// - Every update must follow the version before it. One that does not is a gap: the stream is opened anew after the last
//   one that did, and if that does not mend it, from a snapshot.
// - Whatever ends a stream, it is opened again with the last id, after a pause that grows, with jitter: an edge that dies has
//   all its phones come back. Only what trying again cannot mend (a status 4xx, but 408, 425 and 429) ends it for good.
// - The platform says something (a comment, if nothing else) each 25 s. Longer silence is a dead line.
// - A browser has six connections to one server (HTTP/1.1), and a stream takes one: a page that nobody looks at gives its
//   stream back, and goes on with the last id when it is seen again.
//
// It reads by fetch everywhere, not by EventSource, which hides statuses, comments and headers, and comes back by itself
// with the address, and so the ticket, of before.

/**
 * @typedef {{value: *, at: string}} Signal  `at`: when it was observed, by the vehicle's clock, RFC 3339 UTC
 * @typedef {{vehicle: string, version: number, updated_at: string, signals: Object<string, Signal>,
 *   status?: "live"|"quiet"|"offline", since?: string}} State
 *   Version 0, without signals, is a vehicle that never sent. A state is never changed: each change makes a new one. `status`:
 *   whether it sends as often as it should, and `since` when, RFC 3339; not there while nobody said
 *
 * @typedef {"connecting"|"live"|"waiting"|"ended"} Status
 *   connecting: a stream is being opened; live: all that happens arrives; waiting: for the next try, or to be seen; ended:
 *   closed, or refused
 * @typedef {""|"cut"|"silent"|"no answer"|"unreachable"|"unavailable"|"no stream"|"gap"|"unreadable"|"authorize"|"hidden"
 *   |"refused"|"closed"} Reason  of `waiting` and `ended`, and of the `connecting` after it
 *
 * @typedef {object} Events  what a listener is called with, by name
 * @property {{kind: "snapshot"|"update"|"status", state: State, changed: string[]}} change  `changed`: paths, those removed
 *   too; of a status none
 * @property {{status: Status, reason: Reason, detail: string, code: number}} status  `detail` is for people; `code`: the
 *   HTTP status, 0 if there was none
 * @property {{reason: string, from: string, to: string}} reset  updates were lost; a snapshot follows
 * @property {{have: number|null, prev: number|null, reason: "gap"|"unreadable", fresh: boolean}} gap  an event did not follow;
 *   `fresh`: what was missed is given up, a snapshot follows
 * @property {{vehicle: string, reason: string}} gone  one of many that may be seen no longer; the others go on
 * @property {{kind: string, id: string, data: string, note: string}} event  everything that came, as text; of kinds that are
 *   not known here too. `note`: what was made of it, if not the usual
 *
 * @typedef {object} Options
 * @property {{lastId: string, state: State}} [from]  where an earlier subscription was (its `lastId` and `state`): what was
 *   missed since is replayed
 * @property {"5s"|"30s"|"60s"} [every]  at most one update in so long; what is urgent comes at once all the same
 * @property {() => Promise<{query?: Object<string, string>, headers?: Object<string, string>}>} [authorize]  asked before each
 *   opening: a ticket for the query, or headers. After a 401 it is asked once more before the stream is given up
 * @property {number} [hidden]  ms after which a page that is not seen gives its stream back (60000); Infinity: never
 * @property {number} [silence]  ms without a byte after which the line is dead (60000)
 * @property {number} [opening]  ms that an opening may take (25000)
 * @property {number} [pause]  ms of the first pause (1000), doubled up to `longest`, each times 0.5 to 1
 * @property {number} [longest]  ms (30000)
 * @property {RequestCredentials} [credentials]  of fetch ("same-origin")
 * @property {"stream"|"websocket"} [transport]  how the events come ("stream"). A WebSocket that does not open is passed over for
 *   a stream, until that ends. Of what `authorize` gives, it takes the query alone
 * @property {ServerClock} [clock]  one that is shared
 * @property {typeof fetch} [fetch]
 */

const DEFAULTS = { hidden: 60_000, silence: 60_000, opening: 25_000, pause: 1_000, longest: 30_000 };
const SETTLED = 10_000; // a stream that lived this long was a good one: the pauses begin anew
const SUSPECT = 30_000; // back from sleep or from another tab: more silence than between two keep-alives is not trusted
const MOST_PAUSE = 300_000; // whatever a server asks for
const MOST_TEXT = 64 << 20; // characters of one event; a state is at most 4 MB unless it is set otherwise
const BEATS = [1_000, 30_000]; // by WebSocket: until what may have been lost is asked for, at first and from then on
const ANSWERED = 10_000; // and until that must have been answered, as an opening
const CHAINED = new Set(["snapshot", "update", "status", "reset"]); // of many: what is of one vehicle's chain
const TRY_AGAIN = new Set([408, 425, 429]);

/**
 * Follows a vehicle, beginning at once.
 *
 * @param {string|URL|{base: string, vehicle: string, noun?: string, query?: Object<string, string>}} target  the address of
 *   the stream, or of what it is made: https://host, the id, "vehicles", and what else the address asks for
 * @param {Options} [options]
 * @returns {Subscription}
 */
export function subscribe(target, options = {}) {
  return new Subscription(addressOf(target), options);
}

/**
 * Follows up to 400 vehicles, or a fleet as it is whenever the stream is opened, on one stream; beginning at once. Each has a
 * chain of its own: the list is posted anew whenever the stream is opened, with the ids of all that is known.
 *
 * The events of the subscription say of which `vehicle` they are (but `status`); `gone` is of one that may be seen no longer,
 * while the others go on. `states` and `versions` have all of them; both lead to the same place by the option `from`.
 *
 * @param {{base: string, vehicles?: string[], fleet?: string, view?: string, every?: string}} target
 * @param {Options & {from?: {versions: Object<string, string>, states: Object<string, State>}}} [options]
 * @returns {Subscription}
 */
export function subscribeMany(target, options = {}) {
  const { base, ...asked } = target;
  return new Subscription(new URL(`${base.replace(/\/$/, "")}/v1/streams`, globalThis.location?.href), options, asked);
}

export class Subscription {
  /** @type {State|null} null until the first snapshot */
  state = null;
  /** What to come back with: the id of the event that led to `state`; "" before the first, and between a reset and its snapshot. */
  lastId = "";
  /** @type {Status} */
  status = "connecting";
  /** @type {Reason} */
  reason = "";
  /** The platform's clock, as far as its answers tell (same origin, or Node). */
  clock;

  #address;
  #options;
  #listeners = new Map();
  #outside = new AbortController(); // ends what listens to the page
  #line = null; // AbortController of the stream that is open
  #held = null; // why no stream is wanted now
  #wake = null; // ends the pause
  #tries = 0; // since the last good stream
  #gaps = 0; // since the last update
  #refused = 0; // 401 in a row
  #heard = 0;
  #timers = {};
  #asked = null; // of many: what is posted
  #cars = new Map(); // of many, by vehicle: the chain of each, which is a Subscription that opens nothing
  #count = 0; // of many: how many the stream is of

  /** @hideconstructor */
  constructor(address, options, asked = null) {
    this.#address = address;
    this.#options = { ...DEFAULTS, ...options };
    if (options.every && !asked) address.searchParams.set("every", options.every);
    this.clock = options.clock ?? new ServerClock();
    if (options.from?.lastId && options.from.state) {
      this.lastId = options.from.lastId;
      this.state = { ...options.from.state, signals: bare(options.from.state.signals) };
    }
    if (options.passive) return;
    this.#asked = asked && { ...(options.every && { every: options.every }), ...asked };
    for (const [vehicle, lastId] of Object.entries((asked && options.from?.versions) ?? {}))
      this.#car(vehicle, { lastId, state: options.from.states?.[vehicle] });
    if (typeof document !== "undefined") this.#watchPage();
    queueMicrotask(() => this.#run()); // who subscribed has its listeners there by then
  }

  /**
   * Calls the listener for each event of this name. Returns what takes it off again.
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /**
   * How old a signal is, in ms by the platform's clock; without a path, how long ago the last change came to the platform.
   * null if it was never sent.
   * @param {string} [path]
   * @param {string} [vehicle] of many
   * @returns {number|null}
   */
  age(path, vehicle) {
    if (this.#asked) return this.#cars.get(vehicle)?.age(path) ?? null;
    const at = path === undefined ? this.state?.updated_at : this.state?.signals[path]?.at;
    const then = Date.parse(at ?? "");
    return Number.isNaN(then) ? null : this.clock.now() - then;
  }

  /** Of many, by vehicle: the states, as far as they have come. @returns {Object<string, State>} */
  get states() {
    return bare(Object.fromEntries([...this.#cars].filter(([, car]) => car.state).map(([id, car]) => [id, car.state])));
  }

  /** Of many, by vehicle: the id to come back with. @returns {Object<string, string>} */
  get versions() {
    return bare(Object.fromEntries([...this.#cars].filter(([, car]) => car.lastId).map(([id, car]) => [id, car.lastId])));
  }

  /** Ends it. `state` and `lastId` stay, and lead to the same place by the option `from`. */
  close() {
    if (this.status !== "ended") this.#end("closed");
  }

  // Opening

  async #run() {
    this.#says("connecting", "", "", 0, true);
    while (this.status !== "ended") {
      if (this.#held) {
        await this.#sleep(Infinity);
        continue;
      }
      const ended = await this.#follow();
      if (this.status === "ended") return;
      if (ended.final) return this.#end("refused", ended.detail, ended.code);
      if (ended.at) {
        if (ended.reason !== "hidden") this.#says("connecting", ended.reason, ended.detail, ended.code);
      } else {
        this.#says("waiting", ended.reason, ended.detail, ended.code);
        await this.#sleep(this.#nextPause(ended.least));
        if (this.status === "waiting" && !this.#held) this.#says("connecting", this.reason, ended.detail, ended.code);
      }
    }
  }

  // One stream, from the question to its end. How it ended: {reason, detail, code, least: ms to pause, at: at once, final}.
  async #follow() {
    const line = (this.#line = new AbortController());
    const limit = (reason, time) => {
      clearTimeout(this.#timers.line);
      this.#timers.line = setTimeout(() => line.abort(end(reason)), Math.min(time, 2 ** 31 - 1));
    };
    let live = 0;
    try {
      limit("no answer", this.#options.opening);
      if (this.#options.transport === "websocket" && !this.#asked && typeof WebSocket !== "undefined") {
        const ended = await this.#followSocket(line, limit);
        if (ended) return ended;
        limit("no answer", this.#options.opening);
      }
      const response = await this.#ask(line.signal);
      const refused = await this.#refusal(response);
      if (refused) return refused;
      const parser = new EventParser(this.lastId);
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return end("cut", { least: parser.retry });
        this.#heard = Date.now();
        const comments = parser.comments;
        for (const event of parser.feed(value)) {
          const bad = this.#asked ? this.#takeOf(event) : this.#take(event);
          if (line.signal.aborted) throw line.signal.reason;
          if (bad) return { ...bad, least: parser.retry };
          if (!live && this.#has()) live = this.#live();
        }
        if (!live && parser.comments > comments && this.#has()) live = this.#live();
        if (live) limit("silent", this.#options.silence);
        if (parser.pending > MOST_TEXT) return this.#gap("unreadable", null);
      }
    } catch (error) {
      if (line.signal.aborted) return line.signal.reason;
      return error instanceof Ended ? error.how : end(live ? "cut" : "unreachable", { detail: String(error) });
    } finally {
      clearTimeout(this.#timers.line);
      if (live && Date.now() - live > SETTLED) this.#tries = 0;
      line.abort(end("cut")); // also what was not read
      this.#line = null;
    }
  }

  // The same by WebSocket: it stays open, and what is missed is asked for on it. How it ended; null if it did not open.
  async #followSocket(line, limit) {
    const address = await this.#authorizedAddress(this.#address, line.signal);
    address.protocol = address.protocol.replace("http", "ws");
    address.pathname = address.pathname.replace(/\/events$/, "/ws");
    const socket = new WebSocket(address);
    const timers = { opening: setTimeout(() => socket.close(), ANSWERED) };
    let opened = 0;
    let beats = 0;
    let asking = true; // until that is answered, what does not follow has been asked for
    const resume = () => {
      asking = true;
      clearTimeout(timers.beat);
      socket.send(JSON.stringify({ type: "resume", last_event_id: this.lastId || undefined }));
      timers.answer ??= setTimeout(() => line.abort(end("silent", { at: true })), ANSWERED);
    };
    const pause = (least) => {
      clearTimeout(timers.beat);
      timers.beat = setTimeout(resume, this.#nextPause(least));
    };
    const follows = ({ prev }) => prev === undefined || (this.lastId && prev <= this.state.version);
    // Of another history, after a restore, say: its versions may fit, its ids do not.
    const strange = (after, { prev }) => after && this.lastId && after !== this.lastId && prev === this.state.version;
    const take = ({ event, id, after, data, retry }) => {
      if (event === "keep-alive") return;
      const answer = event === "resumed" || event === "more" || event === "unavailable" || event === "fetch";
      if (answer) timers.answer = clearTimeout(timers.answer);
      if (event === "resumed") {
        asking = false;
        clearTimeout(timers.beat);
        // Not before: what is asked for twice, without an id, is a snapshot twice, the second perhaps older than what came since.
        timers.beat = setTimeout(resume, BEATS[Math.min(beats++, 1)]);
        this.#tries = 0;
        this.#says("live", "", "", 200);
      } else if (event === "more") resume();
      else if (event === "fetch") this.#fetchLatest(data.url, line).then(resume, () => line.abort(end("cut")));
      else if (event === "unavailable" || event === "error") {
        const detail = String(data?.reason);
        this.#tell("event", { kind: event, id: "", data: JSON.stringify(data), note: "" });
        if (event === "error") return;
        this.#says("waiting", "unavailable", detail, 200);
        pause(retry);
      } else if (strange(after, data)) {
        if (!asking) resume();
      } else if (!asking || follows(data)) {
        const gap = this.#take({ event, id: id ?? this.lastId, data: JSON.stringify(data) });
        if (!gap) return;
        asking = true;
        if (gap.at) resume();
        else pause(0);
      }
    };
    try {
      return await new Promise((resolve) => {
        line.signal.addEventListener("abort", () => resolve(line.signal.reason));
        socket.onopen = () => {
          clearTimeout(timers.opening);
          opened = Date.now();
          resume();
        };
        socket.onmessage = ({ data }) => {
          if (line.signal.aborted) return;
          this.#heard = Date.now();
          limit("silent", this.#options.silence);
          try {
            take(JSON.parse(data));
          } catch (error) {
            resolve(end("unreadable", { detail: String(error) }));
          }
        };
        socket.onclose = ({ reason }) => resolve(opened ? end("cut", { detail: reason }) : null);
      });
    } finally {
      for (const timer of Object.values(timers)) clearTimeout(timer);
      socket.onclose = socket.onmessage = socket.onopen = null;
      socket.close();
    }
  }

  // What is too large for a message: the latest state, and its id.
  async #fetchLatest(url, line) {
    const address = await this.#authorizedAddress(new URL(url, this.#address), line.signal);
    const response = await (this.#options.fetch ?? globalThis.fetch)(address, {
      signal: line.signal,
      credentials: this.#options.credentials ?? "same-origin",
    });
    const id = (response.headers.get("ETag") ?? "").replace(/^W\/|"/g, "");
    if (!response.ok || !id) throw new Error(await reasonOf(response));
    const data = await response.text();
    if (!line.signal.aborted) this.#take({ event: "snapshot", id, data });
  }

  async #authorizedAddress(of, signal) {
    const address = new URL(of);
    const given = this.#options.authorize ? await orAborted(this.#authorized(), signal) : null;
    for (const [name, value] of Object.entries(given?.query ?? {})) address.searchParams.set(name, value);
    return address;
  }

  async #ask(signal) {
    if (!this.#asked) return this.#send(this.#address, signal);
    const made = await this.#send(this.#address, signal, JSON.stringify({ ...this.#asked, versions: this.versions }));
    if (made.status !== 201) return made;
    const { url, vehicles } = await made.json();
    this.#count = vehicles;
    const stream = await this.#send(new URL(url, this.#address), signal);
    // What was made is gone again, to make room for others': it is asked for anew.
    if (stream.status === 404) throw new Ended(end("no stream", { detail: await reasonOf(stream), code: 404 }));
    return stream;
  }

  async #send(to, signal, body) {
    const address = new URL(to);
    const headers = { Accept: body ? "application/json" : "text/event-stream" };
    if (this.#options.authorize) {
      const given = await orAborted(this.#authorized(), signal);
      for (const [name, value] of Object.entries(given?.query ?? {})) address.searchParams.set(name, value);
      Object.assign(headers, given?.headers);
    }
    // In the query: a header of this name would have a browser ask for leave first, of another origin.
    if (this.lastId) address.searchParams.set("last_event_id", this.lastId);
    const asked = Date.now();
    const response = await (this.#options.fetch ?? globalThis.fetch)(address, {
      method: body ? "POST" : "GET",
      body,
      headers,
      signal,
      cache: "no-store",
      credentials: this.#options.credentials ?? "same-origin",
    });
    this.clock.learn(response, asked);
    return response;
  }

  async #authorized() {
    try {
      return await this.#options.authorize();
    } catch (error) {
      throw new Ended(end("authorize", { detail: String(error) }));
    }
  }

  // How an answer that is no stream ends it, or null.
  async #refusal(response) {
    const code = response.status;
    const kind = response.headers.get("Content-Type") ?? "";
    if (code !== 401) this.#refused = 0;
    if (code === 200 && response.body && /^text\/event-stream\s*(;|$)/i.test(kind)) return null;
    const detail = code === 200 ? `the answer is ${kind || "of no type"}` : await reasonOf(response);
    const least = 1000 * Number(response.headers.get("Retry-After")) || 0;
    if (code < 400 || code > 499 || TRY_AGAIN.has(code)) return end("no stream", { detail, code, least });
    const again = code === 401 && this.#options.authorize && !this.#refused++;
    return end("refused", { detail, code, at: again, final: !again });
  }

  #nextPause(least) {
    const pause = Math.min(this.#options.pause * 2 ** this.#tries++, this.#options.longest);
    return Math.min(Math.max(least || 0, pause * (0.5 + Math.random() / 2)), MOST_PAUSE);
  }

  #sleep(time) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      clearTimeout(this.#timers.pause);
      if (time < Infinity) this.#timers.pause = setTimeout(resolve, time);
    });
  }

  // What comes

  // Whether there is all that a stream begins with.
  #has() {
    return this.#asked ? Object.keys(this.versions).length >= this.#count : this.lastId !== "";
  }

  #car(vehicle, from) {
    const car = new Subscription(this.#address, { ...this.#options, from, passive: true });
    for (const name of ["change", "reset", "gap", "event"])
      car.on(name, (event) => this.#tell(name, { ...event, vehicle }));
    this.#cars.set(vehicle, car);
    return car;
  }

  // The same of many: each event is its vehicle's.
  #takeOf(event) {
    const { event: kind, id, data } = event;
    const told = (note = "") => this.#tell("event", { kind, id, data, note, vehicle: "" });
    if (kind === "unavailable") return this.#take(event);
    let content = null;
    try {
      content = JSON.parse(data);
    } catch {
      // what cannot be read is told below
    }
    const vehicle = content?.vehicle;
    if (kind === "reset" && vehicle === "") {
      for (const car of this.#cars.values()) car.lastId = "";
      told();
      this.#tell("reset", { reason: String(content.reason), from: "", to: "", vehicle });
      return null;
    }
    if (kind === "gone") {
      this.#cars.delete(vehicle);
      if (this.#asked.vehicles) this.#asked.vehicles = this.#asked.vehicles.filter((one) => one !== vehicle);
      this.#count--;
      told();
      this.#tell("gone", { vehicle, reason: String(content?.reason) });
      return null;
    }
    if (!CHAINED.has(kind) || typeof vehicle !== "string") {
      const bad = CHAINED.has(kind) || content === null;
      told(bad ? "unreadable: the stream is opened anew" : "not known");
      return bad ? end("unreadable", { code: 200 }) : null;
    }
    const car = this.#cars.get(vehicle) ?? this.#car(vehicle);
    return car.#take(event);
  }

  // Takes an event in. How it ends the stream, or null.
  #take({ event: kind, id, data }) {
    const told = (note, ending = null) => {
      this.#tell("event", { kind, id, data, note });
      return ending;
    };
    const patch = kind === "update" || kind === "status"; // what follows the version before it
    if (kind !== "snapshot" && !patch && kind !== "reset" && kind !== "unavailable") {
      if (this.lastId) this.lastId = id; // something of a later platform; what follows it follows this id
      return told("not known");
    }
    let content;
    try {
      content = JSON.parse(data);
    } catch {
      content = null;
    }
    if (kind === "unavailable") {
      const reason = typeof content?.reason === "string" ? content.reason : "";
      return told("", end("unavailable", { detail: reason, code: 200 }));
    }
    if (kind === "reset") {
      // Until the snapshot is here there is nothing to go on from, should the line break between the two.
      this.lastId = "";
      told("");
      this.#tell("reset", { reason: String(content?.reason), from: String(content?.from), to: String(content?.to) });
      return null;
    }
    if (!isView(content) || (patch && !Number.isSafeInteger(content.prev)))
      return told("unreadable: the stream is opened anew", this.#gap("unreadable", null));
    const before = this.lastId ? this.state : null; // after a reset it is only there to be looked at
    if (patch) {
      if (before && content.version <= before.version) return told("had it already");
      if (content.prev !== before?.version || content.vehicle !== before.vehicle)
        return told("gap: the stream is opened anew", this.#gap("gap", content.prev));
    }
    const changed = new Set(Object.keys(content.signals));
    if (kind === "snapshot") for (const path of Object.keys(this.state?.signals ?? {})) changed.add(path);
    const { vehicle, version, updated_at } = content;
    let { signals } = content;
    try {
      if (patch) signals = mergePatch(before.signals, signals);
    } catch {
      return told("unreadable: the stream is opened anew", this.#gap("unreadable", null)); // nested without end
    }
    this.state = { vehicle, version, updated_at, signals: bare(signals), ...statusOf(content, patch ? before : null) };
    this.lastId = id;
    if (patch) this.#gaps = 0;
    told("");
    this.#tell("change", { kind, state: this.state, changed: [...changed] });
    return null;
  }

  // Once, it is asked for what was missed; then it is given up. Who is answered so again and again asks less often.
  #gap(reason, prev) {
    const have = this.lastId ? this.state.version : null;
    const fresh = ++this.#gaps > 1 || !this.lastId;
    if (fresh) this.lastId = "";
    this.#tell("gap", { have, prev, reason, fresh });
    return end(reason, { at: this.#gaps === 1, code: 200 });
  }

  #live() {
    this.#says("live", "", "", 200);
    return Date.now();
  }

  // Words

  #end(reason, detail = "", code = 0) {
    this.#outside.abort();
    clearTimeout(this.#timers.hidden);
    clearTimeout(this.#timers.pause);
    this.#says("ended", reason, detail, code);
    this.#line?.abort(end(reason));
    this.#wake?.();
  }

  #says(status, reason = "", detail = "", code = 0, always = false) {
    if (this.status === "ended" || (!always && status === this.status && reason === this.reason)) return;
    this.status = status;
    this.reason = reason;
    this.#tell("status", { status, reason, detail, code });
  }

  #tell(name, event) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error; // the listener's bug is reported where such are, and does not touch the stream
        });
      }
    }
  }

  // The page

  #watchPage() {
    const listen = (target, name, act) => target.addEventListener(name, act, { signal: this.#outside.signal });
    const seen = () => {
      clearTimeout(this.#timers.hidden);
      if (document.visibilityState === "visible") this.#resume();
      else if (this.#options.hidden < Infinity)
        this.#timers.hidden = setTimeout(() => this.#hold(), this.#options.hidden);
    };
    listen(document, "visibilitychange", seen);
    listen(window, "online", () => this.#look());
    // A page that is kept for the back button must not hold a stream; shown again, it goes on where it was.
    listen(window, "pagehide", () => this.#hold());
    listen(window, "pageshow", (event) => event.persisted && this.#resume());
    if (document.visibilityState === "hidden") seen();
  }

  #hold() {
    this.#held = true;
    this.#says("waiting", "hidden");
    this.#line?.abort(end("hidden", { at: true }));
  }

  #resume() {
    if (this.#held) this.#says("connecting", "hidden");
    this.#held = null;
    this.#look();
  }

  // A dead line may look open for a long time, and a pause be longer than it need be now.
  #look() {
    if (this.#line && this.status === "live" && Date.now() - this.#heard > SUSPECT)
      this.#line.abort(end("silent", { at: true }));
    if (!this.#held) this.#wake?.();
  }
}

/**
 * A reader of a stream of Server-Sent Events, as the HTML standard says: chunks may end anywhere, lines end in LF, CR or CRLF,
 * and what is unfinished at the end was not sent.
 */
export class EventParser {
  /** What to send as the last event id. */
  lastId;
  /** @type {number|null} the last time in ms that the stream named to come back after */
  retry = null;
  /** Comments seen. */
  comments = 0;
  /** Characters read since the last event. */
  pending = 0;

  #decoder = new TextDecoder();
  #rest = [];
  #afterCr = false;
  #name = "";
  #data = [];
  #id;

  /** @param {string} [lastId] */
  constructor(lastId = "") {
    this.lastId = this.#id = lastId;
  }

  /**
   * The events completed by this chunk; `id` is the last event id then in force.
   * @param {Uint8Array} chunk
   * @returns {{event: string, data: string, id: string}[]}
   */
  feed(chunk) {
    let text = this.#decoder.decode(chunk, { stream: true });
    this.pending += text.length;
    // A CR at the end of one chunk and an LF at the start of the next are one line break.
    if (this.#afterCr && text) {
      if (text.startsWith("\n")) text = text.slice(1);
      this.#afterCr = false;
    }
    if (text.endsWith("\r")) this.#afterCr = true;
    const [first, ...lines] = text.split(/\r\n|\r|\n/);
    this.#rest.push(first);
    const events = [];
    for (const next of lines) {
      const line = this.#rest.join("");
      this.#rest = [next];
      if (line) this.#field(line);
      else this.#dispatch(events);
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "") this.comments++;
    else if (name === "event") this.#name = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]{1,12}$/.test(value)) this.retry = Number(value);
  }

  #dispatch(events) {
    this.lastId = this.#id;
    if (this.#data.length) events.push({ event: this.#name || "message", data: this.#data.join("\n"), id: this.#id });
    this.#name = "";
    this.#data = [];
    this.pending = 0;
  }
}

/** The platform's time. A phone's own clock may be minutes off; the Date header of any answer tells, to a second or two. */
export class ServerClock {
  #offset = 0; // what must be added to this device's clock, in ms
  #best = Infinity; // the shortest round trip that it was learned from

  /** Milliseconds since 1970 by the platform's clock. */
  now() {
    return Date.now() + this.#offset;
  }

  /** How far this device's clock is ahead of the platform's, in ms: 0 if it is right within what can be told. */
  ahead() {
    return this.#offset === 0 ? 0 : -this.#offset;
  }

  /**
   * Learns from an answer that was asked for at `asked` (Date.now()).
   * @param {Response} response
   * @param {number} asked
   */
  learn(response, asked) {
    const date = Date.parse(response.headers.get("Date") ?? "");
    const tookLong = Date.now() - asked;
    if (Number.isNaN(date) || tookLong > this.#best || tookLong > 5000) return;
    this.#best = tookLong;
    const difference = date + 500 - (asked + tookLong / 2);
    this.#offset = Math.abs(difference) > 3000 ? difference : 0; // Date has whole seconds, and the answer took its time
  }
}

/**
 * JSON Merge Patch (RFC 7396): the target after the patch. Neither is changed; what is the same is shared.
 * @param {*} target
 * @param {*} patch
 * @returns {*}
 */
export function mergePatch(target, patch) {
  if (!isObject(patch)) return patch;
  const merged = new Map(isObject(target) ? Object.entries(target) : []); // "__proto__" is a name like any other
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) merged.delete(name);
    else merged.set(name, mergePatch(merged.get(name), value));
  }
  return Object.fromEntries(merged);
}

/** What a problem+json (RFC 9457) says, or else the status. */
export async function reasonOf(response) {
  const problem = await response.json().catch(() => null);
  return String(problem?.detail || problem?.title || `status ${response.status}`);
}

class Ended extends Error {
  constructor(how) {
    super(how.reason);
    this.how = how;
  }
}

function end(reason, more = {}) {
  return { reason, detail: "", code: 0, least: 0, at: false, final: false, ...more };
}

function addressOf(target) {
  const here = globalThis.location?.href;
  if (typeof target === "string" || target instanceof URL) return new URL(target, here);
  const { base, vehicle, noun = "vehicles", query = {} } = target;
  const address = new URL(`${base.replace(/\/$/, "")}/v1/${noun}/${encodeURIComponent(vehicle)}/events`, here);
  for (const [name, value] of Object.entries(query)) address.searchParams.set(name, value);
  return address;
}

// What is known of the vehicle's status. That one is live from its first packet on, nobody says.
function statusOf({ status, since, prev, updated_at }, before) {
  if (typeof status === "string" && status) return { status, since };
  if (before?.status) return { status: before.status, since: before.since };
  return before && prev === 0 ? { status: "live", since: updated_at } : {};
}

// Without a prototype: a path that was never sent is undefined, whatever it is called.
function bare(signals) {
  return Object.assign(Object.create(null), signals);
}

function isView(content) {
  return isObject(content) && Number.isSafeInteger(content.version) && isObject(content.signals);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function orAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    promise.then(resolve, reject);
  });
}
