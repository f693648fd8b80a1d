// The way in, and the feed: the whole document first, then what changed.

import { merged } from "./merge.js";

const CODE = /^#[A-Za-z0-9_-]{32}$/;

/** The link's code for a cookie. Returns why not, or nothing. */
export async function enter() {
  if (!CODE.test(location.hash)) return "";
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname); // it shall not stay in the history
  const answer = await fetch("session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
  }).catch(() => null);
  if (answer?.ok) return "";
  return answer?.status === 401 ? "This link was used already, or is older than a minute." : "The agent did not take this link.";
}

/** Calls `changed(document, keys)` and `state(word)`: live, waiting or closed. */
export function follow(changed, state) {
  const source = new EventSource("feed");
  let whole = null;
  source.addEventListener("whole", (event) => {
    whole = JSON.parse(event.data);
    state("live");
    changed(whole, new Set(Object.keys(whole)));
  });
  source.addEventListener("changed", (event) => {
    const patch = JSON.parse(event.data);
    whole = merged(whole, patch);
    changed(whole, new Set(Object.keys(patch)));
  });
  source.addEventListener("error", () => state(source.readyState === EventSource.CLOSED ? "closed" : "waiting"));
}
