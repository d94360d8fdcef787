// Follows many vehicles, for the tests: node follow_many.mjs MODULE TARGET TOKEN prints a line of JSON for each event.

const { subscribeMany } = await import(process.argv[2]);
const say = (...words) => process.stdout.write(`${JSON.stringify(words)}\n`);
const stream = subscribeMany(JSON.parse(process.argv[3]), {
  authorize: async () => ({ headers: { Authorization: `Bearer ${process.argv[4]}` } }),
  pause: 20,
  longest: 200,
});
stream.on("change", ({ kind, vehicle, state }) => say(kind, vehicle, state.version));
stream.on("reset", ({ vehicle, reason }) => say("reset", vehicle, reason));
stream.on("gap", ({ vehicle }) => say("gap", vehicle, 0));
stream.on("gone", ({ vehicle, reason }) => say("gone", vehicle, reason));
stream.on("status", ({ status }) => say(status, "", Object.keys(stream.versions).length));
process.stdin.on("data", () => stream.close());
stream.on("status", ({ status }) => status === "ended" && process.stdin.destroy());
