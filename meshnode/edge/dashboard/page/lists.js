// Models, stories of tasks, events and invites.

import { byId, el, Keyed, mark, put } from "./dom.js";
import { ago, bytes, condition, count, NOTHING, plural, span } from "./format.js";

const CHIPS = 10;

function when() {
  const node = el("time");
  const set = (at) => mark(node, "data-at", String(at));
  return { node, set };
}

/** Texts like "3 s ago", once a second. */
export function tick(now) {
  for (const it of document.querySelectorAll("time[data-at]")) put(it, ago(now - Number(it.dataset.at)));
  for (const it of document.querySelectorAll("time[data-until]")) {
    const left = Number(it.dataset.until) - now;
    put(it, left > 0 ? `in ${span(left)}` : "expired");
  }
}

function chips() {
  const node = el("ul", { class: "chips" });
  const rows = new Keyed(node, () => {
    const it = el("li");
    return { node: it, set: ([text, kind]) => (put(it, text), mark(it, "class", kind)) };
  });
  const set = (ids, nodes, kind) => {
    const names = ids.map((id) => [id, nodes[id]?.name ?? id.slice(0, 8)]).sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true }));
    const shown = names.length <= CHIPS + 1 ? names : names.slice(0, CHIPS);
    const items = shown.map(([id, name]) => [id, [name, kind]]);
    if (names.length > shown.length) items.push(["more", [`and ${count(names.length - shown.length)} more`, "rest"]]);
    if (!items.length) items.push(["none", [NOTHING, "rest"]]);
    rows.update(items);
  };
  return { node, set };
}

export class Models {
  constructor() {
    this.rows = new Keyed(byId("models-rows"), () => {
      const [name, version, signed, reported] = [el("span", { class: "who" }), el("span", { class: "version" }), el("span", { class: "tag" }), el("p", { class: "why bad" })];
      const [size, memory, zone] = [el("td", { class: "num low" }), el("td", { class: "num low" }), el("td", { class: "low" })];
      const [loaded, disk] = [chips(), chips()];
      const node = el("tr", {}, el("th", { scope: "row" }, name, version, signed, reported), size, memory, zone, el("td", {}, loaded.node), el("td", {}, disk.node));
      const set = ([it, nodes]) => {
        put(name, it.name);
        put(version, `:${it.version}`);
        put(signed, it.signed ? "signed" : "");
        put(reported, it.reported ?? "");
        put(size, bytes(it.size));
        put(memory, bytes(it.memory));
        put(zone, it.zone ?? "anywhere");
        loaded.set(it.loaded, nodes, "hot");
        disk.set(it.on_disk.filter((id) => !it.loaded.includes(id)), nodes, "");
      };
      return { node, set };
    });
  }

  draw(document) {
    const items = Object.entries(document.models).sort((a, b) => a[1].name.localeCompare(b[1].name) || b[1].version - a[1].version);
    this.rows.update(items.map(([key, it]) => [key, [it, document.nodes]]));
    byId("models-empty").hidden = items.length > 0;
    byId("models-rows").closest(".scroll").hidden = !items.length;
    put(byId("models-hint"), items.length ? plural(items.length, "model") : "");
  }
}

const KINDS = { moved: ["re-routed", "warn"], failed: ["failed", "bad"], refused: ["refused", "off"] };
const WORDS = { ok: "answered", peer_lost: "lost", worker_crashed: "worker crashed", cancelled: "cancelled", deadline_exceeded: "out of time", result_lost: "result lost" };
const worded = (outcome) => WORDS[outcome] ?? outcome.replaceAll("_", " ");

export class Stories {
  constructor() {
    this.rows = new Keyed(byId("stories"), () => {
      const kind = el("span");
      const model = el("span", { class: "who" });
      const times = el("span", { class: "times" });
      const at = when();
      const steps = el("ol", { class: "steps" });
      const why = el("p", { class: "why" });
      const node = el("li", {}, el("div", { class: "line" }, kind, model, times, at.node), steps, why);
      const rows = new Keyed(steps, () => {
        const [name, outcome] = [el("span", { class: "who" }), el("span", { class: "how" })];
        const it = el("li", {}, name, outcome);
        const set = ([who, how]) => {
          put(name, who);
          put(outcome, how === "ok" ? "" : worded(how));
          mark(it, "class", how === "ok" ? "good" : "gone");
        };
        return { node: it, set };
      });
      const set = (it) => {
        const [word, colour] = KINDS[it.kind] ?? [it.kind, "off"];
        put(kind, word);
        mark(kind, "class", `tag ${colour}`);
        put(model, it.model);
        put(times, it.count > 1 ? `× ${count(it.count)}` : "");
        at.set(it.last);
        const parts = it.steps.map((step, i) => [`${i}`, [step.name, step.outcome]]);
        if (it.by) parts.push(["by", [`for ${it.by}`, it.outcome]]);
        rows.update(parts);
        put(why, it.reason ?? (it.steps.length ? "" : worded(it.outcome)));
        mark(node, "title", `meshnode why ${it.task}`);
      };
      return { node, set };
    });
  }

  draw(document) {
    const items = Object.entries(document.stories).sort((a, b) => b[1].last - a[1].last || b[0] - a[0]);
    this.rows.update(items.slice(0, 30));
    byId("stories-empty").hidden = items.length > 0;
  }
}

const GOOD = new Set(["found", "back", "alive", "usable", "resumed", "out of quarantine"]);
const BAD = new Set(["dead", "quarantined"]);

export class Events {
  constructor() {
    this.rows = new Keyed(byId("events"), () => {
      const [dot, who, what, why] = [el("span", { "aria-hidden": "true" }), el("span", { class: "who" }), el("span"), el("p", { class: "why" })];
      const at = when();
      const node = el("li", {}, el("div", { class: "line" }, dot, who, what, at.node), why);
      const set = (it) => {
        mark(dot, "class", `dot ${GOOD.has(it.event) ? "ok" : BAD.has(it.event) ? "bad" : "warn"}`);
        put(who, it.name);
        put(what, it.event);
        at.set(it.at);
        put(why, it.why ?? "");
      };
      return { node, set };
    });
  }

  draw(document) {
    const items = Object.entries(document.events).sort((a, b) => b[0] - a[0]);
    this.rows.update(items);
    byId("events-empty").hidden = items.length > 0;
  }
}

export class Invites {
  constructor() {
    this.rows = new Keyed(byId("invites-rows"), (id) => {
      const cells = ["low", "", "low", "low", "", "low"].map((kind) => el("td", { class: kind }));
      const until = el("time");
      const head = el("th", { scope: "row" }, el("code", {}, id));
      const node = el("tr", {}, head, ...cells);
      cells[4].append(until);
      const set = (it) => {
        put(cells[0], it.kind === "batch" ? "for many machines" : "for one machine");
        put(cells[1], `${count(it.used)} of ${count(it.uses)}${it.quarantined ? `, ${count(it.quarantined)} in quarantine` : ""}`);
        put(cells[2], it.zones?.join(", ") || NOTHING);
        put(cells[3], it.roles?.join(", ") || "default");
        mark(until, "data-until", String(it.expires_at));
        put(cells[5], it.issued_by_name ?? NOTHING);
      };
      return { node, set };
    });
  }

  draw(document) {
    const items = Object.entries(document.invites).sort((a, b) => a[1].expires_at - b[1].expires_at);
    this.rows.update(items);
    byId("invites-empty").hidden = items.length > 0;
    byId("invites-box").hidden = !items.length;
  }
}

/** What a listener should hear: nodes that were lost or came back, and no more than that. */
export function changes(before, after) {
  if (!before) return "";
  const said = [];
  for (const [id, it] of Object.entries(after)) {
    const [was, is] = [before[id] && condition(before[id])[0], condition(it)[0]];
    if (was !== undefined && was !== is && (was === "dead" || is === "dead" || is === "left" || is === "quarantined")) said.push(`${it.name}: ${is}`);
    if (was === undefined) said.push(`${it.name}: new`);
  }
  return said.length > 3 ? `${plural(said.length, "node")} changed` : said.join(", ");
}
