// Lines and areas over the last two minutes, as SVG paths.

import { byId, el, Keyed, mark, put, svg } from "./dom.js";
import { ms, nice, plural, rate } from "./format.js";
import { SECONDS, series } from "./flow.js";

const HUES = 7;
const LEFT = 50;
const BOTTOM = 18;

/** A colour for each node that gets work, kept as long as the page is open: the busiest that came first. */
const hues = new Map();
function hue(id) {
  if (!hues.has(id) && hues.size < HUES) hues.set(id, hues.size + 1);
  return hues.get(id) ?? 0;
}

class Frame {
  constructor(root, write) {
    this.root = root;
    this.write = write;
    this.grid = [0, 1, 2].map(() => root.appendChild(svg("path", { class: "grid" })));
    this.ticks = [0, 1, 2].map(() => root.appendChild(svg("text", { class: "tick", x: LEFT - 8, "text-anchor": "end" })));
    this.times = ["2 min ago", "1 min", "now"].map((text, i) => {
      const it = root.appendChild(svg("text", { class: "tick", "text-anchor": ["start", "middle", "end"][i] }));
      put(it, text);
      return it;
    });
    this.paths = root.appendChild(svg("g"));
    this.cursor = root.appendChild(svg("path", { class: "cursor" }));
    this.nothing = root.appendChild(svg("text", { class: "nothing" }));
  }

  /** Where a value stands, for `most` at the top; nothing is written across when there is none. */
  scale(most, some) {
    const { width, height } = this.root.getBoundingClientRect();
    if (!width) return null;
    mark(this.root, "viewBox", `0 0 ${width.toFixed(0)} ${height.toFixed(0)}`);
    const [right, floor, top] = [width - 2, height - BOTTOM, 7];
    const y = (value) => floor - (floor - top) * (value / most);
    [0, 0.5, 1].forEach((share, i) => {
      mark(this.grid[i], "d", `M${LEFT} ${y(most * share).toFixed(1)}H${right.toFixed(0)}`);
      mark(this.ticks[i], "y", (y(most * share) + 4).toFixed(1));
      put(this.ticks[i], i ? this.write(most * share) : "0");
    });
    [LEFT, (LEFT + right) / 2, right].forEach((x, i) => {
      mark(this.times[i], "x", x.toFixed(0));
      mark(this.times[i], "y", (height - 3).toFixed(0));
    });
    Object.assign(this, { right, floor, top });
    mark(this.nothing, "x", ((LEFT + right) / 2).toFixed(0));
    mark(this.nothing, "y", (y(most / 4) + 4).toFixed(0));
    put(this.nothing, some ? "" : "no task in this time");
    return { x: (i) => LEFT + ((right - LEFT) * i) / (SECONDS - 1), y };
  }
}

export class Charts {
  constructor() {
    this.asked = null;
    this.rate = new Frame(byId("chart-rate"), rate);
    this.latency = new Frame(byId("chart-latency"), (value) => ms(value).replace(/\.0(?= )/, ""));
    const path = () => {
      const node = svg("path");
      const set = ({ d, kind }) => {
        mark(node, "d", d);
        mark(node, "class", kind);
      };
      return { node, set };
    };
    for (const frame of [this.rate, this.latency]) {
      frame.root.addEventListener("pointermove", (event) => {
        const x = event.clientX - frame.root.getBoundingClientRect().left;
        const share = (x - LEFT) / (frame.right - LEFT);
        this.asked = share >= 0 && share <= 1 ? Math.round(share * (SECONDS - 1)) : null;
        this.read();
      });
      frame.root.addEventListener("pointerleave", () => {
        this.asked = null;
        this.read();
      });
    }
    this.areas = new Keyed(this.rate.paths, path);
    this.lines = new Keyed(this.latency.paths, path);
    this.key = new Keyed(byId("chart-key"), () => {
      const swatch = el("span", { "aria-hidden": "true" });
      const text = el("span");
      const node = el("li", {}, swatch, text);
      const set = ([name, number, now]) => {
        mark(swatch, "class", `swatch h${number}`);
        put(text, `${name} ${now}`);
      };
      return { node, set };
    });
  }

  draw(document, now) {
    const { rows } = series(document.flow, now);
    this.rows = rows;
    this.drawRate(document, rows);
    this.drawLatency(rows);
    this.read();
  }

  /** What the second under the pointer was. */
  read() {
    const i = this.asked;
    const x = i === null ? 0 : LEFT + ((this.rate.right - LEFT) * i) / (SECONDS - 1);
    for (const it of [this.rate, this.latency]) mark(it.cursor, "d", i === null ? "M0 0" : `M${x.toFixed(1)} ${it.top}V${it.floor}`);
    if (i === null || !this.rows) return put(byId("work-hint"), "last two minutes");
    const row = this.rows[i];
    const n = Object.values(row?.went ?? {}).reduce((sum, it) => sum + it, 0);
    const failed = row?.failed ? `, ${row.failed} failed` : "";
    const took = n ? `, p50 ${ms(row.p50_ms)}, p99 ${ms(row.p99_ms)}` : "";
    put(byId("work-hint"), `${SECONDS - i} s ago: ${plural(n, "task")}${failed}${took}`);
  }

  drawRate(document, rows) {
    const totals = new Map();
    for (const row of rows) for (const [id, n] of Object.entries(row?.went ?? {})) totals.set(id, (totals.get(id) ?? 0) + n);
    const busiest = [...totals].sort((a, b) => b[1] - a[1]).map(([id]) => id);
    busiest.forEach(hue);
    const shown = busiest.filter((id) => hue(id)).sort((a, b) => hue(a) - hue(b));
    const rest = busiest.filter((id) => !hue(id));
    const stacks = [...shown.map((id) => [id, hue(id), (row) => row?.went?.[id] ?? 0])];
    if (rest.length) stacks.push(["others", 0, (row) => rest.reduce((sum, id) => sum + (row?.went?.[id] ?? 0), 0)]);
    const sums = rows.map((row) => Object.values(row?.went ?? {}).reduce((sum, n) => sum + n, 0));
    const most = Math.max(...sums);
    const scale = this.rate.scale(nice(Math.max(1, most)), most > 0);
    if (!scale) return;
    let floor = rows.map(() => 0);
    const areas = [];
    for (const [id, number, of] of stacks) {
      const top = rows.map((row, i) => floor[i] + of(row));
      const up = top.map((v, i) => `${scale.x(i).toFixed(1)} ${scale.y(v).toFixed(1)}`);
      const down = floor.map((v, i) => `${scale.x(i).toFixed(1)} ${scale.y(v).toFixed(1)}`).reverse();
      areas.push([id, { d: `M${up.join("L")}L${down.join("L")}Z`, kind: `area h${number}` }]);
      floor = top;
    }
    this.areas.update(areas);
    const lately = (of) => rate((of(rows.at(-1)) + of(rows.at(-2)) + of(rows.at(-3))) / 3);
    this.key.update(stacks.map(([id, number, of]) => [id, [document.nodes[id]?.name ?? (id === "others" ? "others" : id.slice(0, 8)), number, lately(of)]]));
    mark(this.rate.root, "aria-label", `Tasks a second from this node over the last two minutes: now ${rate(sums.at(-1))}, at most ${rate(most)}`);
  }

  drawLatency(rows) {
    const most = Math.max(...rows.map((row) => row?.p99_ms ?? 0));
    const scale = this.latency.scale(nice(Math.max(0.1, most)), most > 0);
    if (!scale) return;
    const line = (of) => {
      let path = "";
      let pen = false;
      rows.forEach((row, i) => {
        const value = row ? of(row) : undefined;
        if (value === undefined) {
          pen = false;
          return;
        }
        path += `${pen ? "L" : "M"}${scale.x(i).toFixed(1)} ${scale.y(value).toFixed(1)}${pen ? "" : "h0.01"}`;
        pen = true;
      });
      return path || "M0 0";
    };
    this.lines.update([
      ["p99", { d: line((row) => row.p99_ms), kind: "line p99" }],
      ["p50", { d: line((row) => row.p50_ms), kind: "line p50" }],
    ]);
    const last = rows.findLast((row) => row?.p50_ms !== undefined);
    mark(this.latency.root, "aria-label", last ? `Latency over the last two minutes: p50 ${ms(last.p50_ms)}, p99 ${ms(last.p99_ms)} in the newest second with tasks` : "Latency: no task in the last two minutes");
  }
}

/** The small line beside a figure: the last minute. */
export function spark(values, width, height) {
  const most = Math.max(...values);
  if (!(most > 0)) return "M0 0";
  return `M${values.map((v, i) => `${((width * i) / (values.length - 1)).toFixed(1)} ${(height - 1 - (height - 2.5) * (v / most)).toFixed(1)}`).join("L")}`;
}
