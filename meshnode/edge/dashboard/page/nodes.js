// The table of nodes: sorted by any column, filtered, and each with more of it below its button.

import { spark } from "./charts.js";
import { byId, el, Keyed, mark, put, svg } from "./dom.js";
import { bytes, condition, count, ms, NOTHING, percent, plural, rate, span } from "./format.js";
import { series } from "./flow.js";

const COLUMNS = [
  ["name", "Node", "", (it) => it.name.toLowerCase()],
  ["state", "State", "", (it) => it.word],
  ["zone", "Zone", "low", (it) => it.zone ?? "~"],
  ["path", "Link", "low", (it) => it.path],
  ["rtt", "Round trip", "num", (it) => it.rtt_ms ?? Infinity],
  ["load", "Load", "", (it) => -(it.load ?? -1)],
  ["memory", "Memory used", "lower", (it) => -used(it)],
  ["work", "In flight", "num low", (it) => -(it.in_flight ?? -1)],
  ["wait", "Wait", "num lower", (it) => -(it.wait_ms ?? -1)],
  ["done", "Done a second", "num lower", (it) => -(it.per_s ?? -1)],
  ["from", "From here", "num", (it) => -(it.mine?.per_s ?? -1)],
  ["p50", "p50", "num low", (it) => it.mine?.p50_ms ?? Infinity],
  ["p99", "p99", "num lower", (it) => it.mine?.p99_ms ?? Infinity],
];
const [SPARK_W, SPARK_H] = [64, 18];

const used = (it) => (it.memory && it.memory_free !== undefined ? Math.max(0, 1 - it.memory_free / it.memory) : -1);

function meter(kind) {
  const fill = el("span", { class: "fill" });
  const text = el("span", { class: "value" });
  const node = el("div", { class: `meter ${kind}` }, el("span", { class: "track", "aria-hidden": "true" }, fill), text);
  const set = (share) => {
    fill.style.width = share < 0 ? "0" : `${Math.min(100, share * 100).toFixed(0)}%`;
    mark(fill, "class", share > 0.9 ? "fill high" : "fill");
    put(text, share < 0 ? NOTHING : percent(share));
  };
  return { node, set };
}

export class Nodes {
  constructor() {
    this.sorted = "name";
    this.down = false;
    this.open = new Set();
    this.heads();
    this.find = byId("nodes-find");
    this.find.addEventListener("input", () => this.draw(this.document));
    this.rows = new Keyed(byId("nodes-table"), (id) => this.row(id));
  }

  heads() {
    const line = byId("nodes-table").tHead.rows[0];
    this.buttons = COLUMNS.map(([key, title, kind]) => {
      const button = el("button", { type: "button" }, title);
      const head = el("th", { scope: "col", class: kind }, button);
      button.addEventListener("click", () => {
        this.down = this.sorted === key && !this.down;
        this.sorted = key;
        this.draw(this.document);
      });
      line.append(head);
      return [key, head];
    });
  }

  row(id) {
    const cell = (key, ...children) => el("td", { class: COLUMNS.find(([it]) => it === key)[2] }, ...children);
    const plain = Object.fromEntries(["zone", "path", "rtt", "work", "wait", "done", "p50", "p99"].map((key) => [key, cell(key)]));
    const name = el("span", { class: "who" });
    const extra = el("span", { class: "tag" });
    const button = el("button", { type: "button", class: "more", "aria-expanded": "false" }, name);
    const dot = el("span", { "aria-hidden": "true" });
    const word = el("span");
    const [load, memory] = [meter("load"), meter("memory")];
    const path = svg("path", { class: "spark" });
    const from = el("span");
    const small = svg("svg", { class: "sparkbox", viewBox: `0 0 ${SPARK_W} ${SPARK_H}`, "aria-hidden": "true" }, path);
    const main = el(
      "tr",
      {},
      el("th", { scope: "row" }, button, extra),
      el("td", { class: "state" }, dot, word),
      plain.zone,
      plain.path,
      plain.rtt,
      el("td", {}, load.node),
      el("td", { class: "lower" }, memory.node),
      plain.work,
      plain.wait,
      plain.done,
      el("td", { class: "num from" }, small, from),
      plain.p50,
      plain.p99,
    );
    const node = el("tbody", {}, main);
    const part = { node, button };
    let below = null;
    const show = (it) => {
      const wanted = this.open.has(id);
      mark(button, "aria-expanded", String(wanted));
      mark(main, "class", wanted ? "opened" : null);
      if (!wanted) {
        below?.remove();
        below = null;
        return;
      }
      if (!below) {
        const list = el("dl", { class: "facts" });
        below = el("tr", { class: "facts" }, el("td", { colspan: COLUMNS.length }, list));
        part.facts = new Keyed(list, () => {
          const [term, text] = [el("dt"), el("dd")];
          return { node: el("div", {}, term, text), set: ([title, value]) => (put(term, title), put(text, value)) };
        });
        node.append(below);
      }
      part.facts.update(facts(id, it).map((fact) => [fact[0], fact]));
    };
    button.addEventListener("click", () => {
      if (!this.open.delete(id)) this.open.add(id);
      show(part.last);
    });
    part.set = (it) => {
      part.last = it;
      put(name, it.name);
      put(extra, it.me ? "this node" : "");
      mark(dot, "class", `dot ${it.kind}`);
      put(word, it.word);
      put(plain.zone, it.zone ?? NOTHING);
      put(plain.path, it.me ? NOTHING : it.path);
      put(plain.rtt, it.me ? NOTHING : ms(it.rtt_ms));
      load.set(it.load ?? -1);
      memory.set(used(it));
      put(plain.work, it.in_flight === undefined ? NOTHING : count(it.in_flight));
      put(plain.wait, ms(it.wait_ms));
      put(plain.done, rate(it.per_s));
      put(from, rate(it.mine?.per_s));
      put(plain.p50, ms(it.mine?.p50_ms));
      put(plain.p99, ms(it.mine?.p99_ms));
      show(it);
    };
    part.spark = (values) => mark(path, "d", spark(values, SPARK_W, SPARK_H));
    return part;
  }

  /** Open a node's facts and go there, as from the map. */
  show(id) {
    this.find.value = "";
    this.open.add(id);
    this.draw(this.document);
    const button = this.rows.parts.get(id)?.button;
    button?.focus({ preventScroll: true });
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    button?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  }

  draw(document) {
    if (!document) return;
    this.document = document;
    const mine = document.work?.nodes ?? {};
    let rows = Object.entries(document.nodes).map(([id, it]) => {
      const [word, kind] = condition(it);
      return { ...it, id, word, kind, me: id === document.self, mine: mine[id] };
    });
    const all = rows.length;
    const wanted = this.find.value.trim().toLowerCase();
    if (wanted) rows = rows.filter((it) => [it.name, it.zone ?? "", it.word, it.id].some((text) => text.toLowerCase().includes(wanted)));
    const [, , , by] = COLUMNS.find(([key]) => key === this.sorted);
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b || 0);
    rows.sort((a, b) => (this.down ? -1 : 1) * compare(by(a), by(b)) || compare(a.name, b.name) || (a.id < b.id ? -1 : 1));
    this.rows.update(rows.map((it) => [it.id, it]));
    for (const [key, head] of this.buttons) mark(head, "aria-sort", key === this.sorted ? (this.down ? "descending" : "ascending") : null);
    put(byId("nodes-hint"), wanted ? `${rows.length} of ${all}` : "");
  }

  /** Once a second: the small lines. */
  tick(document, now) {
    const { rows } = series(document.flow, now);
    const minute = rows.slice(-60);
    for (const [id, part] of this.rows.parts) {
      const values = minute.map((row) => (row?.went?.[id] ?? 0));
      const busy = values.some(Boolean);
      if (busy || part.busy !== false) part.spark(values);
      part.busy = busy;
    }
  }
}

function facts(id, it) {
  const found = [
    ["Id", id],
    ["Address", it.address],
    ["Why", it.reason],
    ["Paused", it.paused],
    ["Quarantine", it.quarantine],
    ["Version", it.software],
    ["Up for", it.up_s === undefined ? undefined : span(it.up_s)],
    ["Processor", it.cpu && `${it.cpu}, ${plural(it.cores, "core")}`],
    ["Memory", it.memory && (it.memory_free === undefined ? bytes(it.memory) : `${bytes(it.memory_free)} free of ${bytes(it.memory)}`)],
    ["GPU", it.gpus?.map((gpu, i) => `${gpu.name}, ${it.gpu_free?.[i] === undefined ? "" : `${bytes(it.gpu_free[i])} free of `}${bytes(gpu.memory)}`).join("; ")],
    ["Runs with", it.providers?.join(", ")],
    ["Tasks at once", it.slots && count(it.slots)],
    ["Power", it.power && it.power !== "unknown" ? `${it.power}${it.charge === undefined ? "" : `, ${it.charge}%`}` : undefined],
    ["Sandbox", it.sandbox],
    ["Roles", it.roles?.join(", ")],
    ["Labels", it.labels && Object.entries(it.labels).map(([key, value]) => `${key}=${value}`).join(", ")],
    ["Found by", it.me ? undefined : it.found_by],
  ];
  return found.filter(([, value]) => value);
}
