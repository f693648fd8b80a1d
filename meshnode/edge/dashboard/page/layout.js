// Where the nodes stand: this one in the middle, the others around it, those of a zone side by side. Pure.

const order = (a, b) =>
  (a.zone ?? "~").localeCompare(b.zone ?? "~") || a.name.localeCompare(b.name, "en", { numeric: true }) || (a.id < b.id ? -1 : 1);

export function layout(nodes, self, width, height) {
  const others = nodes.filter((it) => it.id !== self).sort(order);
  const n = others.length;
  const scales = n <= 18 ? [1] : n <= 44 ? [0.58, 1] : n <= 110 ? [0.44, 0.72, 1] : [0.4, 0.6, 0.8, 1];
  const narrow = width < 520;
  const names = n <= (narrow ? 8 : 18);
  const zones = grouped(others);
  const outside = zones.length > 1 || (zones.length === 1 && zones[0].zone);
  const radius = n <= 8 ? 14 : n <= 14 ? 12 : n <= 44 ? 9 : n <= 110 ? 6.5 : 4.5;
  const cx = width / 2;
  const cy = height / 2 - (names ? 4 : 0);
  const rx = cx - (names ? (narrow ? 46 : 66) : 22) - (outside ? (narrow ? 14 : 34) : 0);
  const ry = height / 2 - (names ? 46 : 22) - (outside ? (names ? 22 : 18) : 0);
  const at = (i, scale) => {
    const angle = n === 1 ? 0 : -Math.PI / 2 + (2 * Math.PI * (i + 0.5)) / n;
    return { angle, x: cx + Math.cos(angle) * rx * scale, y: cy + Math.sin(angle) * ry * scale };
  };
  const places = new Map([[self, { x: cx, y: cy, r: Math.max(radius * 1.35, 9), angle: 0 }]]);
  others.forEach((node, i) => {
    places.set(node.id, { ...at(i, ringed(i, scales)), r: radius });
  });
  const arcs = outside && n > 1 ? zones.map((it) => arc(it, n, cx, cy + (names ? 8 : 0), Math.min(cx - 16, rx + radius + (names ? 46 : 14)), ry + radius + (names ? 37 : 14), width)) : [];
  return { places, arcs, names, radius, crowded: n > 60, terse: n > 10 };
}

/** Neighbours stand on different rings, and longer rings hold more: the golden ratio spreads them. */
function ringed(i, scales) {
  let left = ((i * 0.6180339887) % 1) * scales.reduce((sum, it) => sum + it, 0);
  return scales.find((it) => (left -= it) <= 0) ?? 1;
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

function arc({ zone, from, to }, n, cx, cy, rx, ry, width) {
  const gap = Math.min(0.12, 0.25 / n + 0.02);
  const angle = (i) => -Math.PI / 2 + (2 * Math.PI * i) / n;
  const [begin, end] = [angle(from) + gap, angle(to + 1) - gap];
  const point = (a) => [cx + Math.cos(a) * rx, cy + Math.sin(a) * ry];
  const [x0, y0] = point(begin);
  const [x1, y1] = point(end);
  const [x, y] = point((begin + end) / 2);
  const half = Math.min(zone.length || 7, 22) * 3.1 + 6;
  return {
    zone,
    path: `M${x0.toFixed(1)} ${y0.toFixed(1)}A${rx.toFixed(1)} ${ry.toFixed(1)} 0 ${end - begin > Math.PI ? 1 : 0} 1 ${x1.toFixed(1)} ${y1.toFixed(1)}`,
    x: Math.max(half, Math.min(width - half, x)),
    y: y + 4,
  };
}
