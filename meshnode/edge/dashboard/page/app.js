// The page: what to draw when what has changed.

import { Charts } from "./charts.js";
import { byId, el, Keyed, mark, put } from "./dom.js";
import { condition, count, ms, plural, rate } from "./format.js";
import { rates } from "./flow.js";
import { changes, Events, Invites, Models, Stories, tick } from "./lists.js";
import { enter, follow } from "./live.js";
import { Mesh } from "./map.js";
import { Marks } from "./marks.js";
import { Nodes } from "./nodes.js";

const THEMES = ["system", "light", "dark"];

class Page {
  constructor() {
    this.document = null;
    this.changed = new Set();
    this.pending = false;
    this.nodes = new Nodes();
    this.mesh = new Mesh((id) => this.nodes.show(id));
    this.marks = new Marks(byId("map-marks"), this.mesh);
    this.charts = new Charts();
    this.models = new Models();
    this.stories = new Stories();
    this.events = new Events();
    this.invites = new Invites();
    this.notices = new Keyed(byId("notices"), () => {
      const node = el("li", { class: "notice" });
      return { node, set: (text) => put(node, text) };
    });
    this.ahead = 0;
    setInterval(() => this.tick(), 1000);
    document.addEventListener("visibilitychange", () => this.draw());
  }

  /** Seconds since 1970 by the agent's clock. */
  now() {
    return Date.now() / 1000 + this.ahead;
  }

  take(whole, keys) {
    if (keys.has("at")) this.ahead = whole.at - Date.now() / 1000;
    if (keys.has("nodes")) {
      const said = changes(this.document?.nodes, whole.nodes);
      if (said) put(byId("said"), said);
    }
    const first = this.document === null;
    this.document = whole;
    for (const key of keys) this.changed.add(key);
    if (first) this.draw();
    else if (!this.pending && !document.hidden) {
      this.pending = true;
      requestAnimationFrame(() => {
        this.pending = false;
        this.draw();
      });
    }
  }

  draw() {
    if (!this.document || document.hidden) return;
    const it = this.document;
    const is = (...keys) => keys.some((key) => this.changed.has(key));
    const [mesh, nodes, models, work] = [is("nodes", "work", "self"), is("nodes", "work"), is("models", "nodes"), is("nodes", "work")];
    if (is("mesh", "self", "nodes")) this.head(it);
    if (mesh) this.mesh.draw(it);
    if (nodes) this.nodes.draw(it);
    if (models) this.models.draw(it);
    if (work) this.figures(it);
    if (is("stories")) this.stories.draw(it);
    if (is("events")) this.events.draw(it);
    if (is("invites")) this.invites.draw(it);
    if (is("notices")) this.notices.update((it.notices ?? []).map((text) => [text, text]));
    const first = is("self");
    this.changed.clear();
    if (first) this.tick();
  }

  head(it) {
    const me = it.nodes[it.self];
    put(byId("mesh-name"), it.mesh.name);
    put(byId("mesh-self"), `from ${me?.name ?? it.self.slice(0, 8)}`);
    const title = `${it.mesh.name} · meshnode`;
    if (document.title !== title) document.title = title;
    put(byId("foot"), `meshnode ${it.version} · mesh ${it.mesh.id.slice(0, 8)} · node ${it.self.slice(0, 8)}`);
  }

  figures({ nodes, work }) {
    const all = Object.values(nodes).filter((it) => it.state !== "left");
    const alive = all.filter((it) => it.state === "alive").length;
    put(byId("f-nodes"), count(alive));
    const away = all.length - alive;
    put(byId("f-nodes-sub"), away ? `${count(away)} not alive` : "all alive");
    mark(byId("f-nodes-sub"), "class", away ? "sub bad" : "sub");
    put(byId("f-rate"), rate(work.per_s));
    put(byId("f-rate-sub"), `${plural(work.open, "task")} open`);
    put(byId("f-p50"), ms(work.p50_ms));
    put(byId("f-p99"), ms(work.p99_ms));
    put(byId("f-moved"), count(work.moved));
    put(byId("f-failed"), count(work.failed));
    const lately = work.failed_per_s > 0;
    put(byId("f-failed-sub"), lately ? `${rate(work.failed_per_s)} a second now` : "since the start");
    mark(byId("f-failed-sub"), "class", lately ? "sub bad" : "sub");
  }

  tick() {
    if (!this.document || document.hidden) return;
    const now = this.now();
    tick(now);
    this.charts.draw(this.document, now);
    this.nodes.tick(this.document, now);
    this.marks.flow(rates(this.document.flow, now));
  }

  state(word) {
    const live = byId("live");
    const texts = { live: "Live", waiting: "Reconnecting", closed: "Closed" };
    put(live, texts[word]);
    mark(live, "data-is", word);
  }

  /** Nothing can be shown any more, or yet. */
  close(why) {
    byId("open").hidden = true;
    byId("closed").hidden = false;
    put(byId("closed-why"), why);
  }
}

function theme() {
  const button = byId("theme");
  const root = document.documentElement;
  let chosen = root.dataset.theme ?? "system";
  const show = () => put(button, `Theme: ${chosen}`);
  button.addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    if (chosen === "system") delete root.dataset.theme;
    else root.dataset.theme = chosen;
    try {
      localStorage.setItem("meshnode.theme", chosen);
    } catch {
      // it lasts as long as the page then
    }
    page.marks.colours();
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.marks.colours());
  show();
}

const page = new Page();
theme();
const refused = await enter();
follow(
  (whole, keys) => page.take(whole, keys),
  (word) => {
    page.state(word);
    if (word === "closed") page.close(refused || "The way in has ended: it lasts twelve hours, or until the agent is restarted.");
  },
);
