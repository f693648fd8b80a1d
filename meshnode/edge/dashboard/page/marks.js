// Work under way: small marks that move along the links, as many as there are tasks, up to what an eye can count.
// Nothing is drawn while nothing moves, while the page is hidden, or for who asked for less motion.

const TRAVEL_S = 1.1;
const MARKS_MAX = 500;

export class Marks {
  constructor(canvas, mesh) {
    this.canvas = canvas;
    this.mesh = mesh;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.rates = new Map();
    this.owed = new Map();
    this.marks = [];
    this.frame = 0;
    this.seen = true;
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      this.wake();
    }).observe(canvas);
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Tasks a second to and from each node. */
  flow(rates) {
    this.rates = rates;
    this.wake();
  }

  wake() {
    if (this.frame || this.still.matches || document.hidden || !this.seen) return;
    if (!this.marks.length && !this.rates.size) return;
    this.colours();
    this.last = performance.now();
    this.frame = requestAnimationFrame((now) => this.step(now));
  }

  colours() {
    const of = (name) => {
      this.canvas.style.color = `var(${name})`;
      return getComputedStyle(this.canvas).color;
    };
    this.colour = [of("--out"), of("--in")];
  }

  step(now) {
    this.frame = 0;
    const past = Math.min(0.1, (now - this.last) / 1000);
    this.last = now;
    this.spawn(past);
    this.draw(past);
    if ((this.marks.length || this.rates.size) && !document.hidden && this.seen && !this.still.matches) {
      this.frame = requestAnimationFrame((at) => this.step(at));
    }
  }

  spawn(past) {
    for (const [node, pair] of this.rates) {
      pair.forEach((rate, way) => {
        if (!rate) return;
        const key = `${way}${node}`;
        // The first few a second are shown one by one; beyond that the eye sees density.
        const shown = rate < 4 ? rate : Math.min(16, 4 * (rate / 4) ** 0.4);
        let owed = (this.owed.get(key) ?? Math.random()) + shown * past;
        for (; owed >= 1; owed--) if (this.marks.length < MARKS_MAX) this.marks.push({ node, way, at: -Math.random() * 0.04 });
        this.owed.set(key, owed);
      });
    }
  }

  draw(past) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const size = this.mesh.ways.size > 60 ? 1.6 : 2.3;
    this.marks = this.marks.filter((it) => {
      it.at += past / TRAVEL_S;
      const spot = it.at < 0 ? null : this.spot(it);
      if (!spot) return it.at < 0;
      pen.globalAlpha = Math.min(1, 6 * it.at, 6 * (1 - it.at)) * 0.95;
      pen.fillStyle = this.colour[it.way];
      pen.beginPath();
      pen.arc(spot.x, spot.y, size, 0, 2 * Math.PI);
      pen.fill();
      return true;
    });
    pen.globalAlpha = 1;
  }

  /** Where a mark is; nothing when it has arrived or its link is gone. */
  spot({ node, way, at }) {
    if (at >= 1) return null;
    if (node === this.mesh.document?.self) {
      const { x, y, r } = this.mesh.centre;
      const angle = 2 * Math.PI * at - Math.PI / 2;
      return { x: x + Math.cos(angle) * (r + 6), y: y + Math.sin(angle) * (r + 6) };
    }
    const points = this.mesh.ways.get(node);
    if (!points) return null;
    const t = way ? 1 - at : at;
    const lengths = points.slice(1).map((p, i) => Math.hypot(p.x - points[i].x, p.y - points[i].y));
    let left = t * lengths.reduce((sum, it) => sum + it, 0);
    for (let i = 0; i < lengths.length; i++) {
      if (left <= lengths[i] || i === lengths.length - 1) {
        const share = lengths[i] ? Math.min(1, left / lengths[i]) : 0;
        const [a, b] = [points[i], points[i + 1]];
        return { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share };
      }
      left -= lengths[i];
    }
    return null;
  }
}
