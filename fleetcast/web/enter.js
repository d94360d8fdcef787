// A link that lets its holder in: the token stands behind the `#`, which a browser sends to nobody. It becomes the session's
// cookie, which no script can read, and is gone from the address before anything else is asked for.

const MARK = "#token=";
const TRIES = 5;

/** Uses the token of the address, if one is there: null if all is well, else why it was not taken. */
export async function enter() {
  addEventListener("hashchange", () => location.hash.startsWith(MARK) && location.reload());
  if (!location.hash.startsWith(MARK)) return null;
  const token = location.hash.slice(MARK.length);
  history.replaceState(history.state, "", location.pathname + location.search);
  for (let tries = 1; ; tries++) {
    const answer = await begin(token);
    if (answer?.ok) return null;
    if (answer?.status === 404) return null; // everything is open here
    if (answer && answer.status < 500) return "The link is not valid, or has expired. Ask for a new one.";
    if (tries === TRIES) return "The platform does not answer. Open the link again.";
    await new Promise((done) => setTimeout(done, 500 * tries));
  }
}

async function begin(token) {
  const headers = { Authorization: `Bearer ${token}` };
  return fetch("/v1/session", { method: "POST", headers, cache: "no-store" }).catch(() => null);
}
