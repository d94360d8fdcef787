// What the tests of fleetcast.js run, in Node and in a page: it follows, and says in words what came.
//
// node follow.mjs MODULE '{"target": …, "options": …, "tickets": …}' prints a line of JSON for each; a line "close" on its
// standard input closes the subscription.

export function follow({ subscribe }, { target, options, tickets }, say) {
  let ticket = 0;
  if (tickets) options.authorize = async () => ({ query: { ticket: String(++ticket) } });
  const stream = subscribe(target, options);
  const tell = (word) => say(JSON.stringify({ word, state: stream.state, lastId: stream.lastId, age: stream.age() }));
  stream.on("change", ({ kind, state }) => tell(`${kind} ${state.version}`));
  stream.on("reset", ({ reason }) => tell(`reset ${reason}`));
  stream.on("gap", ({ fresh }) => tell(fresh ? "gap fresh" : "gap"));
  stream.on("event", ({ kind, data, note }) => {
    if (kind === "unavailable") tell(`unavailable ${JSON.parse(data).reason}`);
    if (note === "not known") tell(`other ${kind}`);
  });
  stream.on("status", ({ status, reason, code }) => {
    if (status === "live") tell("live");
    if (status === "waiting") tell(`waiting ${reason}`);
    if (status === "ended") tell(reason === "refused" ? `refused ${code}` : reason);
  });
  return stream;
}

const argv = globalThis.process?.argv ?? [];
if (argv[1]?.endsWith("follow.mjs")) {
  const stream = follow(await import(argv[2]), JSON.parse(argv[3]), (line) => process.stdout.write(`${line}\n`));
  stream.on("status", ({ status }) => status === "ended" && process.stdin.destroy());
  process.stdin.on("data", (data) => data.includes("close") && stream.close());
}
