// A browser-side stand-in for the feed of 200 nodes, all of which change twice a second.
(() => {
  // In place of the agent: the snapshot of a large mesh, and every half second what changes in it.
  const N = 200;
  const id = (i) => String(i).padStart(52, 'n');
  const nodes = {};
  for (let i = 0; i < N; i++) {
    nodes[id(i)] = {
      name: `node-${i}`, state: i % 37 === 5 ? 'dead' : 'alive', usable: i % 37 !== 5, path: i ? (i % 37 === 5 ? 'none' : 'direct') : 'self',
      found_by: 'gossip', zone: `zone-${Math.floor((i * 5) / N)}`, load: 0.5, memory: 16e9, memory_free: 8e9, rtt_ms: 1, in_flight: 1, wait_ms: 2, per_s: 9, cores: 4,
    };
  }
  const second = () => {
    const went = {};
    for (let i = 0; i < N; i++) if (i % 37 !== 5) went[id(i)] = 1 + ((i * 7 + Date.now()) % 9);
    return { went, p50_ms: 3 + Math.random(), p99_ms: 9 + 5 * Math.random() };
  };
  const at = () => Math.floor(Date.now() / 1000);
  const flow = {};
  for (let i = 1; i <= 120; i++) flow[at() - i] = second();
  const work = () => ({ per_s: 990, p50_ms: 3, p99_ms: 12, failed_per_s: 0, open: 40, answered: 1, failed: 0, moved: 0, nodes: Object.fromEntries(Object.keys(nodes).map((it) => [it, { per_s: 4 + Math.random(), p50_ms: 3, p99_ms: 9 }])) });
  const whole = { at: Date.now() / 1000, self: id(0), version: '0', mesh: { id: 'm'.repeat(52), name: 'crowd' }, nodes, models: {}, work: work(), flow, stories: {}, events: {}, invites: {}, notices: [] };
  window.updates = 0;
  window.EventSource = class extends EventTarget {
    static CLOSED = 2;
    constructor() {
      super();
      const say = (type, data) => this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data) }));
      setTimeout(() => say('whole', whole), 50);
      setInterval(() => {
        const patch = { nodes: {}, work: work(), flow: { [at() - 1]: second(), [at() - 121]: null } };
        for (let i = 0; i < N; i++) patch.nodes[id(i)] = { load: Math.random(), rtt_ms: 1 + Math.random(), in_flight: Math.floor(9 * Math.random()) };
        say('changed', patch);
        window.updates++;
      }, 500);
    }
  };
})()
