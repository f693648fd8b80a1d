// How figures are written. Pure.

export const NOTHING = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

export function ms(value) {
  if (!known(value)) return NOTHING;
  if (value === 0) return "0 ms";
  if (value >= 59_500) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 999.5) return `${(value / 1000).toFixed(value >= 9_995 ? 0 : 1)} s`;
  if (value >= 9.95) return `${Math.round(value)} ms`;
  return `${value.toFixed(value >= 0.995 ? 1 : 2)} ms`;
}

export function rate(value) {
  if (!known(value)) return NOTHING;
  if (value === 0) return "0";
  if (value < 9.95) return value.toFixed(1);
  return count(Math.round(value));
}

export function count(value) {
  if (!known(value)) return NOTHING;
  if (value >= 999_500) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 99_950) return `${Math.round(value / 1000)}k`;
  return value.toLocaleString("en");
}

export const percent = (value) => (known(value) ? `${Math.round(value * 100)}%` : NOTHING);

export function bytes(value) {
  if (!known(value)) return NOTHING;
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size * 0.9995) return `${(value / size).toFixed(value / size >= 99.5 ? 0 : 1)} ${unit}`;
  }
  return `${value} B`;
}

export function span(seconds) {
  if (!known(seconds)) return NOTHING;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

export const ago = (seconds) => (seconds < 1.5 ? "just now" : `${span(seconds)} ago`);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** The smallest round number that is not below. */
export function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((it) => it * power).find((it) => it >= value * 0.999999);
}

/** What a node is, in a word that people sort by. */
export function condition(node) {
  if (node.quarantine) return ["quarantined", "warn"];
  if (node.state === "dead") return ["dead", "bad"];
  if (node.state === "left") return [node.reason === "revoked" ? "revoked" : "left", "off"];
  if (node.state === "suspect") return ["suspect", "warn"];
  if (node.draining) return ["draining", "warn"];
  if (node.paused) return ["paused", "off"];
  if (!node.usable) return ["not used", "warn"];
  return ["alive", "ok"];
}
