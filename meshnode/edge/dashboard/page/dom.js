// Small helpers. Whatever comes from the mesh is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

const texts = new WeakMap();

/** Set the text, when it is another one. */
export function put(node, text) {
  if (texts.get(node) === text) return;
  texts.set(node, text);
  node.textContent = text;
}

const attributes = new WeakMap();

/** Set an attribute, when it is another one; null takes it away. */
export function mark(node, name, value) {
  let known = attributes.get(node);
  if (!known) attributes.set(node, (known = {}));
  if (known[name] === value) return;
  known[name] = value;
  if (value === null || value === undefined) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

/** Children by key: made once, set when their item is another object, moved when their place is another. */
export class Keyed {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.parts = new Map();
  }

  update(items) {
    const wanted = new Set(items.map(([key]) => key));
    for (const [key, part] of this.parts) {
      if (wanted.has(key)) continue;
      part.node.remove();
      this.parts.delete(key);
    }
    let next = this.parent.firstElementChild;
    if (next && next.tagName === "THEAD") next = next.nextElementSibling;
    if (next && next.tagName === "CAPTION") next = next.nextElementSibling?.nextElementSibling ?? null;
    for (const [key, item] of items) {
      let part = this.parts.get(key);
      if (!part) this.parts.set(key, (part = this.make(key)));
      part.set(item);
      if (part.node === next) next = next.nextElementSibling;
      else this.parent.insertBefore(part.node, next);
    }
  }
}
