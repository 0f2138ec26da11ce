"use strict";
/* Small helpers. Text reaches the page through textContent only, so nothing in a prompt can become markup. */

function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function s(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "css") Object.assign(node.style, value);
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function readJson(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/* A gzipped, base64-coded block of the page. */
async function readPacked(id) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot unpack the replays (it lacks DecompressionStream); use one from 2023 or later");
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const fixed = (digits) => (x) => (x === null || x === undefined || Number.isNaN(x) ? "–" : x.toFixed(digits));
const percent = (x, digits = 1) => (x === null || x === undefined ? "–" : (100 * x).toFixed(digits));
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/* Viridis: even in lightness, readable with any colour vision and in grey. */
const VIRIDIS = [
  [68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128], [94, 201, 98], [173, 220, 48], [253, 231, 37],
];
/* Light to dark blue, for figures printed on a value. */
const BLUES = [[246, 250, 254], [214, 230, 244], [166, 205, 230], [102, 171, 212], [45, 126, 186], [8, 78, 152], [8, 48, 107]];

function ramp(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const rgb = stops[low].map((a, i) => Math.round(a + (stops[low + 1][i] - a) * (place - low)));
  const bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140;
  return { background: `rgb(${rgb.join(",")})`, ink: bright ? "#101215" : "#ffffff" };
}
const gradient = (stops) => `linear-gradient(to right, ${stops.map((c) => `rgb(${c.join(",")})`).join(",")})`;

/* One tooltip for the whole page. An open dialog covers all else, so the tip moves into it. */
const tip = {
  node: null,
  show(text, x, y) {
    if (!this.node) this.node = h("div", { id: "tip", role: "tooltip" });
    const home = document.querySelector("dialog[open]") || document.body;
    if (this.node.parentNode !== home) home.append(this.node);
    this.node.textContent = text;
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    this.node.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    this.node.style.top = (y + box.height + 24 > innerHeight ? Math.max(6, y - box.height - 12) : y + 18) + "px";
  },
  hide() {
    if (this.node) this.node.hidden = true;
  },
  on(node, text) {
    const said = typeof text === "function" ? text : () => text;
    node.addEventListener("pointermove", (event) => this.show(said(), event.clientX, event.clientY));
    node.addEventListener("pointerleave", () => this.hide());
    node.addEventListener("focus", () => {
      if (!node.matches(":focus-visible")) return;
      const box = node.getBoundingClientRect();
      this.show(said(), box.right, box.bottom);
    });
    node.addEventListener("blur", () => this.hide());
  },
};
