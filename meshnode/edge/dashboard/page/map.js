// The drawn mesh: nodes, how each is linked with this one, and its load. What moves on it is in marks.js.

import { byId, Keyed, mark, put, svg } from "./dom.js";
import { condition, ms, plural, rate } from "./format.js";
import { layout } from "./layout.js";

const short = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
const xy = (x, y) => `translate(${x.toFixed(1)}px,${y.toFixed(1)}px)`;

export class Mesh {
  constructor(chosen) {
    this.box = byId("map-box");
    this.root = byId("map-svg");
    this.chosen = chosen;
    this.ways = new Map();
    const layer = (name, root) => root.appendChild(svg("g", { class: name }));
    this.below = byId("map-links");
    this.arcs = new Keyed(layer("arcs", this.below), () => this.arc());
    this.links = new Keyed(layer("links", this.below), () => this.link());
    this.nodes = new Keyed(layer("nodes", this.root), (id) => this.node(id));
    this.names = true;
    new ResizeObserver(() => this.draw(this.document)).observe(this.box);
  }

  arc() {
    const node = svg("g", { class: "zone" });
    const path = node.appendChild(svg("path"));
    const text = node.appendChild(svg("text"));
    const set = (it) => {
      mark(path, "d", it.path);
      mark(text, "x", it.x.toFixed(1));
      mark(text, "y", it.y.toFixed(1));
      put(text, short(it.zone || "no zone", 22));
    };
    return { node, set };
  }

  link() {
    const node = svg("path", { class: "link" });
    const set = ({ path, kind, width }) => {
      mark(node, "d", path);
      mark(node, "class", `link ${kind}`);
      mark(node, "stroke-width", width);
    };
    return { node, set };
  }

  node(id) {
    const node = svg("g", { class: "node" });
    const title = node.appendChild(svg("title"));
    const halo = node.appendChild(svg("circle", { class: "halo" }));
    const body = node.appendChild(svg("circle", { class: "body" }));
    const ring = node.appendChild(svg("circle", { class: "ring" }));
    const arc = node.appendChild(svg("circle", { class: "arc", pathLength: "100", transform: "rotate(-90)" }));
    const cross = node.appendChild(svg("path", { class: "cross" }));
    const name = node.appendChild(svg("text", { class: "name" }));
    const sub = node.appendChild(svg("text", { class: "sub" }));
    node.addEventListener("click", () => this.chosen(id));
    const set = ({ it, place, me, names, terse, word, kind, text }) => {
      node.style.transform = xy(place.x, place.y);
      mark(node, "class", `node ${kind}${me ? " me" : ""}${names || me ? "" : " bare"}`);
      put(title, `${it.name}: ${word}${text ? `, ${text}` : ""}${it.reason ? `. ${it.reason}` : ""}`);
      const r = place.r;
      mark(halo, "r", r + 9);
      mark(body, "r", r - (r > 7 ? 3.5 : 2));
      mark(ring, "r", r);
      mark(arc, "r", r);
      mark(ring, "stroke-width", r > 7 ? 3 : 2);
      mark(arc, "stroke-width", r > 7 ? 3 : 2);
      const load = Math.min(1, it.load ?? 0) * 100;
      mark(arc, "stroke-dasharray", `${load.toFixed(0)} 100`);
      const c = r * 0.32;
      mark(cross, "d", kind === "bad" ? `M${-c} ${-c}L${c} ${c}M${c} ${-c}L${-c} ${c}` : "M0 0");
      mark(name, "y", r + 15);
      mark(sub, "y", r + 28);
      put(name, names || me ? short(it.name, 16) : "");
      put(sub, me || (names && (!terse || kind !== "ok")) ? text : "");
    };
    return { node, set };
  }

  draw(document) {
    if (!document) return;
    this.document = document;
    const { width, height } = this.box.getBoundingClientRect();
    if (!width || !height) return;
    for (const root of [this.root, this.below]) mark(root, "viewBox", `0 0 ${width.toFixed(0)} ${height.toFixed(0)}`);
    const me = document.self;
    const nodes = Object.entries(document.nodes).map(([id, it]) => ({ ...it, id }));
    const plan = layout(nodes, me, width, height);
    const centre = plan.places.get(me);
    mark(this.below, "class", plan.crowded ? "crowded" : null);
    const done = document.work?.nodes ?? {};
    const [links, bodies] = [[], []];
    this.ways = new Map();
    for (const it of nodes) {
      const place = plan.places.get(it.id);
      const [word, kind] = condition(it);
      const figures = [done[it.id]?.per_s ? `${rate(done[it.id].per_s)}/s` : "", it.rtt_ms === undefined ? "" : ms(it.rtt_ms)];
      const text = it.id === me ? "this node" : kind === "ok" ? figures.filter(Boolean).join(" · ") : word;
      bodies.push([it.id, { it, place, me: it.id === me, names: plan.names, terse: plan.terse, word, kind, text }]);
      if (it.id === me) continue;
      const via = it.via && plan.places.get(it.via);
      const way = via ? [centre, bend(via, plan.radius), place] : [centre, place];
      const there = it.path !== "none" && it.state !== "dead" && it.state !== "left";
      if (there) this.ways.set(it.id, way);
      const flow = done[it.id]?.per_s ?? 0;
      const path = `M${way.map((p) => `${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("L")}`;
      const style = !there ? "none" : via ? "relay" : "direct";
      if (there || (kind !== "bad" && kind !== "off")) links.push([it.id, { path, kind: `${style}${flow ? " busy" : ""}`, width: there ? (1.25 + Math.min(2.75, Math.log10(1 + flow))).toFixed(1) : 1 }]);
    }
    this.centre = centre;
    this.arcs.update(plan.arcs.map((it, i) => [`${i}`, it]));
    this.links.update(links);
    this.nodes.update(bodies);
    put(byId("map-text"), summary(nodes, me));
    put(byId("map-hint"), `as seen from ${document.nodes[me]?.name ?? "this node"}`);
  }
}

/** A way through a member goes past it, not over it. */
const bend = (via, radius) => ({ x: via.x + radius * 0.4, y: via.y + radius * 0.4 });

function summary(nodes, me) {
  const others = nodes.filter((it) => it.id !== me);
  const direct = others.filter((it) => it.path === "direct").length;
  const relayed = others.filter((it) => it.path.startsWith("relay")).length;
  const parts = [`${plural(direct, "node")} linked directly`];
  if (relayed) parts.push(`${relayed} through a member`);
  const away = others.filter((it) => condition(it)[1] === "bad").length;
  if (away) parts.push(`${away} dead`);
  return `Drawing of the mesh around this node: ${parts.join(", ")}. The table of nodes has the same as text.`;
}
