// Where the nodes stand: this one in the middle, the others around it, those of a zone side by side. Pure.

const order = (a, b) =>
  (a.zone ?? "~").localeCompare(b.zone ?? "~") || a.name.localeCompare(b.name, "en", { numeric: true }) || (a.id < b.id ? -1 : 1);

export function layout(nodes, self, width, height) {
  const others = nodes.filter((it) => it.id !== self).sort(order);
  const n = others.length;
  const rings = n <= 14 ? 1 : n <= 44 ? 2 : n <= 110 ? 3 : 4;
  const narrow = width < 520;
  const names = n <= (narrow ? 8 : 24);
  const zones = grouped(others);
  const outside = zones.length > 1 || (zones.length === 1 && zones[0].zone);
  const radius = n <= 8 ? 14 : n <= 14 ? 12 : n <= 44 ? 9 : n <= 110 ? 6.5 : 4.5;
  const cx = width / 2;
  const cy = height / 2 - (names ? 4 : 0);
  const rx = cx - (names ? (narrow ? 46 : 74) : 22) - (outside ? (narrow ? 14 : 26) : 0);
  const ry = height / 2 - (names ? 44 : 22) - (outside ? 20 : 0);
  const at = (i, scale) => {
    const angle = n === 1 ? 0 : -Math.PI / 2 + (2 * Math.PI * (i + 0.5)) / n;
    return { angle, x: cx + Math.cos(angle) * rx * scale, y: cy + Math.sin(angle) * ry * scale };
  };
  const places = new Map([[self, { x: cx, y: cy, r: Math.max(radius * 1.35, 9), angle: 0 }]]);
  others.forEach((node, i) => {
    const scale = rings === 1 ? 1 : 0.42 + (0.58 * (i % rings)) / (rings - 1);
    places.set(node.id, { ...at(i, scale), r: radius });
  });
  const arcs = outside && n > 1 ? zones.map((it) => arc(it, n, cx, cy, rx + radius + (names ? 38 : 12), ry + radius + (names ? 38 : 12))) : [];
  return { places, arcs, names, radius };
}

function grouped(others) {
  const found = [];
  others.forEach((node, i) => {
    const zone = node.zone ?? "";
    if (found.at(-1)?.zone === zone) found.at(-1).to = i;
    else found.push({ zone, from: i, to: i });
  });
  return found;
}

function arc({ zone, from, to }, n, cx, cy, rx, ry) {
  const gap = Math.min(0.12, 0.25 / n + 0.02);
  const angle = (i) => -Math.PI / 2 + (2 * Math.PI * i) / n;
  const [begin, end] = [angle(from) + gap, angle(to + 1) - gap];
  const point = (a, more = 0) => [cx + Math.cos(a) * (rx + more), cy + Math.sin(a) * (ry + more)];
  const [x0, y0] = point(begin);
  const [x1, y1] = point(end);
  const middle = (begin + end) / 2;
  const [x, y] = point(middle, 6);
  const side = Math.cos(middle);
  return {
    zone,
    path: `M${x0.toFixed(1)} ${y0.toFixed(1)}A${rx.toFixed(1)} ${ry.toFixed(1)} 0 ${end - begin > Math.PI ? 1 : 0} 1 ${x1.toFixed(1)} ${y1.toFixed(1)}`,
    x,
    y: y + (Math.sin(middle) > 0.5 ? 9 : Math.sin(middle) < -0.5 ? -2 : 3),
    anchor: side > 0.35 ? "start" : side < -0.35 ? "end" : "middle",
  };
}
