// What the feed's seconds say. Pure: the clock is given.

export const SECONDS = 120;

/** The newest second that is over; one before it while that may still be under way to here. */
function newest(flow, now) {
  const end = Math.floor(now) - 1;
  return flow?.[end] ? end : end - 1;
}

/** The last two minutes as arrays, oldest first; the last one is the newest second that is over. */
export function series(flow, now) {
  const end = newest(flow, now);
  const rows = Array.from({ length: SECONDS }, (_, i) => flow?.[end - SECONDS + 1 + i] ?? null);
  return { end, rows };
}

/** By node, in tasks a second over the last three: [to it, from it]. */
export function rates(flow, now) {
  const found = new Map();
  const last = newest(flow, now);
  for (let at = last; at > last - 3; at--) {
    const second = flow?.[at];
    if (!second) continue;
    for (const [way, rows] of [[0, second.went], [1, second.came]]) {
      for (const [node, n] of Object.entries(rows ?? {})) {
        const pair = found.get(node) ?? [0, 0];
        pair[way] += n / 3;
        found.set(node, pair);
      }
    }
  }
  return found;
}
