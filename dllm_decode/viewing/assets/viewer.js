"use strict";
/* The replay of one canvas. A replay, as the Python side packs it:
 *   n cells of the canvas; g [[cell, token]] given from the start; b [forwards, start, end, ...] blocks, run by run;
 *   l [forwards, length, ...] row lengths, run by run; i [[forward, cell, number, token]] cells put in by a forward after
 *   what it wrote (forwards from 0); k commits per forward; c, v, p their cells, tokens and confidences
 *   in thousandths (p < 0: filled because the row stopped, not decided; its confidence is -1 - p). */

function unpackReplay(packed, mask) {
  const initial = new Array(packed.n).fill(mask);
  const given = new Set();
  for (const [cell, token] of packed.g || []) { initial[cell] = token; given.add(cell); }
  const runs = (flat, width) => {
    const out = [];
    for (let i = 0; i < flat.length; i += width + 1) for (let j = 0; j < flat[i]; j++) out.push(flat.slice(i + 1, i + 1 + width));
    return out;
  };
  const blocks = runs(packed.b, 2);
  const lengths = packed.l ? runs(packed.l, 1).map((run) => run[0]) : null;
  const steps = [];
  let at = 0;
  packed.k.forEach((size, i) => {
    steps.push({
      start: blocks[i][0], end: blocks[i][1], length: lengths ? lengths[i] : packed.n,
      cells: packed.c.slice(at, at + size), tokens: packed.v.slice(at, at + size), confidence: packed.p.slice(at, at + size),
    });
    at += size;
  });
  for (const [forward, at, number, token] of packed.i || []) steps[forward].inserted = { at, number, token };
  return { initial, given, steps, most: Math.max(packed.n, ...steps.map((step) => step.length)) };
}

/* Tokens of the text that were decided: an end token that was given, or has given text behind it, ends nothing. */
function contentOf(tokens, given, eos, mask) {
  const last = tokens.findLastIndex((token, i) => given[i] && !eos.has(token));
  const end = tokens.findIndex((token, i) => i > last && eos.has(token) && !given[i]);
  return tokens.filter((token, i) => (end < 0 || i < end) && !given[i] && token !== mask).length;
}

/* The canvas after the first `upto` forwards. */
function canvasAt(replay, upto, mask) {
  const state = {
    tokens: replay.initial.slice(), step: new Array(replay.initial.length).fill(0),
    confidence: new Array(replay.initial.length).fill(null), revokedAt: new Map(), revokes: 0, length: replay.initial.length,
  };
  replay.steps.slice(0, upto).forEach((step, i) => {
    step.cells.forEach((cell, j) => {
      const token = step.tokens[j];
      if (token === mask && state.tokens[cell] !== mask) { state.revokes += 1; state.revokedAt.set(cell, i + 1); }
      state.tokens[cell] = token;
      state.step[cell] = token === mask ? 0 : i + 1;
      state.confidence[cell] = token === mask ? null : step.confidence[j];
    });
    if (step.inserted) {
      const { at, number, token } = step.inserted;
      const put = (list, value) => { list.splice(at, 0, ...new Array(number).fill(value)); list.length = step.length; };
      put(state.tokens, token);
      put(state.step, token === mask ? 0 : i + 1);
      put(state.confidence, null);
      state.revokedAt = new Map([...state.revokedAt].map(([cell, forward]) => [cell < at ? cell : cell + number, forward]));
    }
    state.length = step.length;
  });
  return state;
}

const sureness = (p) => (p < 0 ? "filled because the row had stopped" + (p < -1 ? `, confidence ${((-1 - p) / 10).toFixed(1)} %` : "") : `confidence ${(p / 10).toFixed(1)} %`);

const ICONS = {
  first: "M1 1h2v12H1zM13 1v12L4 7z", back: "M12 1v12L3 7z", play: "M2 0l11 7-11 7z", pause: "M2 1h4v12H2zM8 1h4v12H8z", on: "M2 1l9 6-9 6z", last: "M11 1h2v12h-2zM1 1l9 6-9 6z",
};
const icon = (name) => s("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));

/* book: {mask, eos: Set, pieces}; options: {compare: final tokens to mark differences from, onstep, keys, brief: no legend} */
function mountViewer(root, packed, book, options = {}) {
  const replay = unpackReplay(packed, book.mask);
  const total = replay.steps.length;
  let now = total, timer = null, cells = [];

  const text = (token) => (book.eos.has(token) ? "∎" : book.pieces[token] !== undefined ? book.pieces[token] : ` ${token}`);
  // Cells are as wide as the widest text they will hold, and lines end where they will end: nothing moves while it plays.
  const final = canvasAt(replay, total, book.mask).tokens;
  const widths = new Array(replay.most).fill(1);
  const reserve = (tokens) => tokens.forEach((token, cell) => { if (token !== book.mask) widths[cell] = Math.max(widths[cell], text(token).length); });
  reserve(replay.initial);
  reserve(final);
  for (const step of replay.steps) step.cells.forEach((cell, j) => { if (step.tokens[j] !== book.mask) widths[cell] = Math.max(widths[cell], text(step.tokens[j]).length); });
  const figures = h("div", { class: "figures", "aria-live": "polite" });
  const canvas = h("div", { class: "canvas", role: "group", "aria-label": "canvas" });
  const slider = h("input", { type: "range", min: 0, max: total, step: 1, value: total, "aria-label": "forward" });
  const output = h("output", {});
  const play = h("button", { type: "button", class: "play", title: "play (space)", "aria-label": "play" }, icon("play"));
  const pace = h("select", { "aria-label": "forwards per second", title: "forwards per second" },
    ...[1, 2, 4, 8, 16, 32].map((rate) => h("option", { value: rate, selected: rate === 4 }, `${rate}/s`)));
  const jump = (label, title, to) => h("button", { type: "button", title, "aria-label": title, onclick: () => { pause(); go(to()); } }, label);
  const controls = h("div", { class: "controls" },
    jump(icon("first"), "first (Home)", () => 0), jump(icon("back"), "back (←)", () => now - 1), play, jump(icon("on"), "on (→)", () => now + 1),
    jump(icon("last"), "last (End)", () => total), slider, output, pace);
  const listing = h("p", { class: "now" });
  const map = drawMap();
  fill(root, figures, canvas, controls, map.node,
    h("div", { class: "axes" },
      h("span", {}, "map: across = forward, down = cell; coloured = committed, grey = block"),
      total > 1 ? h("span", {}, "committed at forward 1", h("span", { class: "scale", style: { background: gradient(VIRIDIS) } }), String(total)) : null),
    options.brief ? null : h("div", { class: "axes" },
      h("span", {}, h("span", { class: "swatch", style: { borderBottom: "4px solid var(--block)" } }), "block  ",
        h("span", { class: "swatch", style: { background: "var(--mask)", border: "1px solid var(--line)", marginLeft: "12px" } }), "masked  ",
        h("span", { class: "swatch", style: { border: "2px solid var(--ink)", marginLeft: "12px" } }), "committed by this forward",
        replay.given.size ? [h("span", { class: "swatch", style: { border: "1px solid var(--line)", marginLeft: "12px" } }), "given  "] : null,
        options.compare ? [h("span", { class: "cell differs", style: { marginLeft: "10px", minWidth: "0" } }, "abc"), "differs from static"] : null),
      h("span", {}, h("span", { class: "cell end", style: { minWidth: 0 } }, "∎"), "end of text")),
    listing);
  root.classList.add("viewer");
  root.tabIndex = 0;

  slider.addEventListener("input", () => { pause(); go(Number(slider.value)); });
  play.addEventListener("click", () => (timer ? pause() : run()));
  pace.addEventListener("change", () => { if (timer) { pause(); run(); } });
  const target = options.keys || root;
  target.addEventListener("keydown", onKey);
  canvas.addEventListener("pointerover", (event) => describe(event.target.closest(".cell"), event));
  canvas.addEventListener("pointerleave", () => tip.hide());

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, input[type=search]")) return;
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: total, PageUp: now - 10, PageDown: now + 10 };
    if (event.key in moves) { pause(); go(moves[event.key]); }
    else if (event.key === " " && !event.target.closest("button")) timer ? pause() : run();
    else return;
    event.preventDefault();
  }

  function run() {
    if (now >= total) go(0);
    timer = setInterval(() => { go(now + 1); if (now >= total) pause(); }, 1000 / Number(pace.value));
    fill(play, icon("pause"));
    play.setAttribute("aria-label", "pause");
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    fill(play, icon("play"));
    play.setAttribute("aria-label", "play");
  }

  function drawMap() {
    const rows = Math.max(1, replay.most), columns = Math.max(1, total);
    const svg = s("svg", { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", role: "img", "aria-label": "cells committed by each forward" });
    replay.steps.forEach((step, i) => {
      svg.append(s("rect", { x: i, y: step.start, width: 1.02, height: Math.max(0, step.end - step.start), css: { fill: "var(--map)" } }));
      step.cells.forEach((cell, j) => {
        const revoked = step.tokens[j] === book.mask;
        const colour = revoked ? "var(--bad)" : ramp(VIRIDIS, i / Math.max(1, total - 1)).background;
        svg.append(s("rect", { x: i + 0.03, y: cell, width: 0.94, height: 1, css: { fill: colour, opacity: step.confidence[j] < 0 ? 0.35 : 1 } }));
      });
    });
    const cursor = s("rect", { y: 0, height: rows, width: 1, css: { fill: "none", stroke: "var(--ink)", strokeWidth: 1.5 }, "vector-effect": "non-scaling-stroke" });
    svg.append(cursor);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      pause();
      go(1 + Math.floor(((event.clientX - box.left) / box.width) * columns));
    });
    return { node: h("div", { class: "map" }, svg), cursor };
  }

  function go(to) {
    now = Math.min(Math.max(Math.round(to), 0), total);
    const state = canvasAt(replay, now, book.mask);
    const step = now ? replay.steps[now - 1] : null;
    const block = now < total || !total ? step || replay.steps[0] : null; // of the forward on show; none when all is done
    const fresh = new Set(step ? step.cells : []);
    const tokens = state.tokens.slice(0, state.length);
    cells = tokens.map((token, cell) => ({
      cell, token, step: state.step[cell], confidence: state.confidence[cell], revoked: token === book.mask && state.revokedAt.get(cell),
      given: replay.given.has(cell) && !state.step[cell],
    }));
    const nodes = [];
    for (const one of cells) {
      const masked = one.token === book.mask;
      const name = ["cell", masked ? "mask" : one.given ? "given" : "done"];
      if (block && one.cell >= block.start && one.cell < block.end) name.push("block");
      if (fresh.has(one.cell)) name.push("fresh");
      if (book.eos.has(one.token)) name.push("end");
      if (one.revoked) name.push("revoked");
      if (options.compare && !masked && options.compare[one.cell] !== one.token) name.push("differs");
      const node = h("span", { class: name.join(" "), "data-cell": one.cell, "data-step": one.step, style: { minWidth: `calc(${Math.min(widths[one.cell], 40)}ch + 10px)` } }, masked ? "·" : text(one.token));
      if (!masked && !one.given) {
        const colour = ramp(VIRIDIS, total > 1 ? (one.step - 1) / (total - 1) : 0);
        node.style.backgroundColor = colour.background;
        node.style.color = colour.ink;
        if (one.confidence !== null && one.confidence < 0) node.style.opacity = 0.45;
      }
      nodes.push(node);
      if (final[one.cell] !== book.mask && text(final[one.cell]).includes("↵")) nodes.push(h("br"));
    }
    fill(canvas, nodes);
    const decided = cells.filter((one) => !one.given && one.token !== book.mask).length;
    const content = contentOf(tokens, cells.map((one) => one.given), book.eos, book.mask);
    const figure = (label, value) => h("span", {}, label + " ", h("b", {}, value));
    fill(figures, figure("forwards", `${now} of ${total}`), figure("cells decided", `${decided} of ${cells.filter((one) => !one.given).length}`),
      figure("content tokens per forward so far", now ? (content / now).toFixed(2) : "–"),
      block ? figure("block", `cells ${block.start}–${block.end - 1}`) : figure("", "done"),
      state.revokes ? figure("revoked so far", state.revokes) : null);
    output.textContent = `forward ${now} / ${total}`;
    slider.value = now;
    slider.setAttribute("aria-valuetext", output.textContent);
    map.cursor.setAttribute("x", Math.max(0, now - 1));
    map.cursor.style.display = now ? "" : "none";
    tell(step);
    tip.hide();
    if (options.onstep) options.onstep(now);
  }

  function tell(step) {
    if (!step) { fill(listing, "Before the first forward: every cell that is not given is masked."); return; }
    const filled = step.confidence.filter((p) => p < 0).length;
    const decided = step.cells.map((cell, j) => [cell, j]).filter(([, j]) => step.confidence[j] >= 0);
    const content = decided.filter(([, j]) => !book.eos.has(step.tokens[j])); // ends are many and say little
    const ends = decided.length - content.length, said = content.slice(0, 24), left = content.length - said.length;
    const parts = [];
    said.forEach(([cell, j], i) => {
      const revoked = step.tokens[j] === book.mask;
      parts.push(i ? ",  " : "", `${cell} `, revoked ? "revoked" : h("bdi", { class: "mono" }, text(step.tokens[j]).trim() || "␣"),
        revoked ? "" : ` ${(step.confidence[j] / 10).toFixed(1)} %`);
    });
    fill(listing, `Forward ${now} committed${said.length ? ", in order (cell, token, confidence)" : ""}: `, parts, left > 0 ? `, and ${left} more` : "",
      ends ? `${said.length ? ", and " : ""}${count(ends, "end token")} (∎).` : said.length ? "." : "nothing.",
      step.inserted ? ` Put in before cell ${step.inserted.at}: ${count(step.inserted.number, step.inserted.token === book.mask ? "mask" : "end token")}.` : "", filled ? ` The row stopped: ${count(filled, "cell")} filled without being decided.` : "");
  }

  function describe(node, event) {
    if (!node || !node.dataset.cell) { tip.hide(); return; }
    const one = cells[Number(node.dataset.cell)];
    const lines = [`cell ${one.cell}`];
    if (one.token === book.mask) lines.push(one.revoked ? `masked again: revoked at forward ${one.revoked}` : "masked");
    else {
      lines.push(`token ${one.token} “${text(one.token)}”`);
      lines.push(one.given ? "given" : `committed at forward ${one.step}`);
      if (one.confidence !== null) lines.push(sureness(one.confidence));
    }
    if (options.compare && one.token !== book.mask && options.compare[one.cell] !== one.token) {
      const other = options.compare[one.cell];
      lines.push(other === undefined ? "static has no such cell" : `static has “${text(other)}”`);
    }
    tip.show(lines.join("\n"), event.clientX, event.clientY);
  }

  go(total);
  return { go, run, pause, total, get now() { return now; }, destroy() { pause(); target.removeEventListener("keydown", onKey); } };
}
