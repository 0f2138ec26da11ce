"use strict";
/* Inline SVG figures. Families keep one colour, one shape and one dash everywhere, so that colour is never needed alone. */

const SHAPES = ["circle", "square", "triangle", "diamond", "down", "plus", "cross", "hex"];
const DASHES = ["", "7 3", "2 3", "8 3 2 3"];

/* The look of family number i. */
function lookOf(i) {
  return { colour: `var(--c${i % 8})`, shape: SHAPES[(i + Math.floor(i / 8)) % 8], dash: DASHES[Math.floor(i / 8) % 4] };
}

function mark(shape, x, y, r, props) {
  const at = (points) => points.map(([dx, dy]) => `${(x + dx * r).toFixed(2)},${(y + dy * r).toFixed(2)}`).join(" ");
  const polygon = {
    square: [[-0.86, -0.86], [0.86, -0.86], [0.86, 0.86], [-0.86, 0.86]],
    triangle: [[0, -1.15], [1.05, 0.75], [-1.05, 0.75]],
    down: [[0, 1.15], [1.05, -0.75], [-1.05, -0.75]],
    diamond: [[0, -1.25], [1.05, 0], [0, 1.25], [-1.05, 0]],
    plus: [[-0.38, -1.1], [0.38, -1.1], [0.38, -0.38], [1.1, -0.38], [1.1, 0.38], [0.38, 0.38], [0.38, 1.1], [-0.38, 1.1], [-0.38, 0.38], [-1.1, 0.38], [-1.1, -0.38], [-0.38, -0.38]],
    hex: [[-0.55, -0.95], [0.55, -0.95], [1.1, 0], [0.55, 0.95], [-0.55, 0.95], [-1.1, 0]],
    star: Array.from({ length: 10 }, (_, i) => { const a = (Math.PI * i) / 5 - Math.PI / 2, q = i % 2 ? 0.55 : 1.4; return [q * Math.cos(a), q * Math.sin(a)]; }),
    bar: [[-0.3, -1.5], [0.3, -1.5], [0.3, 1.5], [-0.3, 1.5]],
  };
  if (shape === "circle") return s("circle", { cx: x, cy: y, r, class: "mark", ...props });
  if (shape === "cross") return s("g", { transform: `rotate(45 ${x} ${y})` }, s("polygon", { points: at(polygon.plus), class: "mark", ...props }));
  return s("polygon", { points: at(polygon[shape]), class: "mark", ...props });
}

/* Round numbers on a log axis, the roundest first. */
function logTicks(low, high) {
  const out = [];
  for (const m of [1, 2, 5, 3, 4, 8, 6, 1.5, 7]) {
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) {
      const tick = Number((m * 10 ** k).toPrecision(3));
      if (tick >= low && tick <= high) out.push(tick);
    }
  }
  return out;
}

function niceTicks(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw - 1e-12);
  const out = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + 1e-9; tick += step) out.push(Number(tick.toFixed(9)));
  return out;
}

const short = (x) => String(Number(x.toFixed(3)));

/* Axes and scales of one figure. spec: {width, height, x: {low, high, log, label, ticks}, y: {...}, font, right} */
function frame(spec) {
  const font = spec.font || 13;
  const box = { left: font * 4.1, right: spec.width - (spec.right || 10), top: spec.top || 8, bottom: spec.height - font * 3.2 };
  const X = spec.x, Y = spec.y;
  const place = (axis, from, to) => {
    const f = axis.log ? Math.log : (v) => v;
    const low = f(axis.low), span = f(axis.high) - low || 1;
    return (v) => from + ((f(v) - low) / span) * (to - from);
  };
  const x = place(X, box.left, box.right), y = place(Y, box.bottom, box.top);
  const svg = s("svg", { viewBox: `0 0 ${spec.width} ${spec.height}`, "font-size": font, role: "group", "aria-label": spec.title || "" });
  let xticks = X.ticks || (X.log ? [] : niceTicks(X.low, X.high, (box.right - box.left) / (font * 4.5)));
  if (X.log) { // only ticks whose numbers do not touch
    const half = (tick) => (short(tick).length * 0.3 + 0.35) * font;
    for (const tick of logTicks(X.low, X.high)) if (xticks.every((k) => Math.abs(x(k) - x(tick)) > half(k) + half(tick))) xticks.push(tick);
  }
  const yticks = Y.ticks || niceTicks(Y.low, Y.high, Math.max(2, (box.bottom - box.top) / (font * 2.6)));
  for (const t of yticks) {
    svg.append(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) }));
    svg.append(s("g", { class: "tick" }, s("text", { x: box.left - 6, y: y(t) + font * 0.35, "text-anchor": "end" }, short(t))));
  }
  for (const t of xticks) {
    if (!X.band) svg.append(s("line", { class: "grid", x1: x(t), x2: x(t), y1: box.top, y2: box.bottom }));
    svg.append(s("g", { class: "tick" }, s("text", { x: x(t), y: box.bottom + font * 1.25, "text-anchor": "middle" }, X.names ? X.names[t] : short(t))));
  }
  svg.append(s("rect", { class: "frame", x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }));
  svg.append(s("text", { class: "axis", x: (box.left + box.right) / 2, y: spec.height - font * 0.45, "text-anchor": "middle" }, X.label));
  const middle = (box.top + box.bottom) / 2;
  svg.append(s("text", { class: "axis", x: font * 0.95, y: middle, "text-anchor": "middle", transform: `rotate(-90 ${font * 0.95} ${middle})` }, Y.label));
  return { svg, x, y, box, font };
}

/* Low and high of an accuracy axis: never narrower than ten points, never outside 0 to 100. */
function accuracyRange(values) {
  let low = Math.min(...values), high = Math.max(...values);
  const pad = Math.max(1.5, (high - low) * 0.06);
  low -= pad; high += pad;
  if (high - low < 10) { const middle = (low + high) / 2; low = middle - 5; high = middle + 5; }
  if (high > 101.5) { low -= Math.min(high - 101.5, Math.max(0, low)); high = 101.5; }
  if (low < -1.5) low = -1.5;
  return [low, high];
}

/* How many of the series or marks before this one lie at exactly the same spot: the later ones are drawn around them. */
function tieCounter() {
  const seen = new Map();
  const count = (place) => { const n = seen.get(place) || 0; seen.set(place, n + 1); return n; };
  count.seen = seen;
  return count;
}
const MOST_RINGS = 2; // more are a number

/* A line, or a band around the line it ties with. */
function linePath(points, look, width, ties) {
  return s("polyline", { class: ties ? "tied" : "", points, css: { fill: "none", stroke: look.colour, strokeWidth: width + 5 * Math.min(ties, MOST_RINGS), strokeDasharray: ties ? "" : look.dash, opacity: ties ? 0.35 : look.faint ? 0.55 : 1 } });
}

/* A mark, or a ring around the mark it ties with. */
function tiedMark(look, x, y, r, ties) {
  if (ties > MOST_RINGS) return null;
  return ties
    ? mark(look.shape, x, y, r + 3.2 * ties, { css: { fill: "none", stroke: look.colour, strokeWidth: 1.8 } })
    : mark(look.shape, x, y, look.faint ? 0.75 * r : r, { css: { fill: look.colour, stroke: "var(--bg)", strokeWidth: 1 } });
}

/* Accuracy against tokens per forward. spec adds: series [{look, line: [[x, y]], points: [{x, y, lo, hi, left, right, tip, label, open}]}], wide: x bars too,
 * markers [{x, y, shape, colour, tip, open}], level {y, name} */
function frontierChart(spec) {
  const points = spec.series.flatMap((one) => one.points);
  const all = [...points, ...spec.markers];
  if (!all.length) return h("p", { class: "soft" }, "nothing to show");
  const xs = all.flatMap((p) => (spec.wide && p.left > 0 ? [p.x, p.left, p.right] : [p.x]));
  const ys = all.flatMap((p) => [p.y, ...(p.lo === undefined ? [] : [p.lo, p.hi])]).concat(spec.level ? [spec.level.y] : []);
  const low = Math.min(...xs), high = Math.max(...xs);
  const pad = Math.max(1.07, (high / low) ** 0.05);
  const [ylow, yhigh] = accuracyRange(ys);
  const chart = frame({
    ...spec, x: { low: low / pad, high: Math.max(high * pad, (low / pad) * 1.3), log: true, label: spec.xlabel },
    y: { low: ylow, high: yhigh, label: "accuracy (%)" },
  });
  const { svg, x, y, box } = chart, size = spec.size || 5;
  if (spec.level) {
    svg.append(s("line", { x1: box.left, x2: box.right, y1: y(spec.level.y), y2: y(spec.level.y), css: { stroke: "var(--static)", strokeDasharray: "6 4", strokeWidth: 1.5 } }));
    if (spec.right > 40) svg.append(s("text", { x: box.right + 6, y: y(spec.level.y) + chart.font * 0.35, css: { fill: "var(--static)" } }, spec.level.name));
  }
  const marks = [];
  const near = (p) => points.filter((q) => q !== p && Math.hypot(x(p.x) - x(q.x), y(p.y) - y(q.y)) < size).map((q) => q.label);
  const lineTies = tieCounter(), markTies = tieCounter();
  for (const one of spec.series) {
    const line = [...one.points].sort((a, b) => a.x - b.x || b.y - a.y);
    if (one.line.length > 1) {
      const at = one.line.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
      svg.append(linePath(at, one.look, size / 2.8, lineTies(at)));
    }
    for (const p of line) {
      const px = x(p.x), py = y(p.y);
      const wide = p.left > 0 && spec.wide ? `M${x(p.left)},${py}H${x(p.right)}M${x(p.left)},${py - 3}v6M${x(p.right)},${py - 3}v6` : "";
      const bar = s("path", { d: `M${px},${y(p.lo)}V${y(p.hi)}M${px - 3},${y(p.lo)}h6M${px - 3},${y(p.hi)}h6${wide}`, css: { stroke: one.look.colour, strokeWidth: 1.2, opacity: one.look.faint ? 0 : 0.6, fill: "none" } });
      const node = s("g", { class: "point", tabindex: 0, role: "button", "aria-label": p.tip, "data-label": p.label, "data-task": spec.task },
        bar, s("circle", { cx: px, cy: py, r: size + 6, css: { fill: "transparent" } }),
        tiedMark(one.look, px, py, size, markTies(`${px.toFixed(1)},${py.toFixed(1)}`)));
      const hidden = near(p);
      tip.on(node, hidden.length ? `${p.tip}\nalso here: ${hidden.join(", ")}` : p.tip);
      const open = () => { tip.hide(); p.open(); };
      node.addEventListener("click", open);
      node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
      marks.push(node);
    }
  }
  for (const p of spec.markers) {
    const node = s("g", { class: "bound" }, mark(p.shape, x(p.x), y(p.y), size * 0.95, { css: { fill: "var(--bg)", stroke: p.colour, strokeWidth: 1.7 } }));
    tip.on(node, p.tip);
    if (p.open) { node.classList.add("point"); node.addEventListener("click", () => { tip.hide(); p.open(); }); }
    svg.append(node);
  }
  svg.append(...marks);
  for (const [place, n] of markTies.seen) {
    const [px, py] = place.split(",").map(Number);
    if (n > MOST_RINGS + 1) svg.append(s("text", { x: px + size + 9, y: py - size - 4, "font-size": chart.font * 0.85, "text-anchor": px > spec.width - 60 ? "end" : "start" }, `${n} here`));
  }
  return svg;
}

/* Lines over a numeric axis. series: [{look, points: [{x, y}], tip(point)}] */
function lineChart(spec) {
  const chart = frame(spec);
  const { svg, x, y } = chart;
  const lineTies = tieCounter();
  for (const one of spec.series) {
    const at = one.points.map((p) => `${x(p.x).toFixed(1)},${y(p.y).toFixed(1)}`).join(" "), ties = lineTies(at);
    svg.append(linePath(at, one.look, one.look.faint ? 1.2 : 2, ties));
    for (const p of one.points) {
      const node = s("g", {}, s("circle", { cx: x(p.x), cy: y(p.y), r: 9, css: { fill: "transparent" } }), one.look.faint && !ties ? null : tiedMark(one.look, x(p.x), y(p.y), 4, ties));
      tip.on(node, p.tip);
      svg.append(node);
    }
  }
  return svg;
}

/* Calibration: bins side by side, in each the range where agreement would equal confidence, and one mark per series. */
function binChart(spec) {
  const bins = spec.bins.length;
  const chart = frame({ ...spec, x: { low: -0.5, high: bins - 0.5, label: spec.xlabel, ticks: spec.bins.map((_, i) => i), names: spec.bins.map((b) => b.name), band: true } });
  const { svg, x, y } = chart;
  spec.bins.forEach((bin, i) => {
    const left = x(i - 0.46), width = x(i + 0.46) - left;
    const top = y(Math.min(100 * bin.high, spec.y.high)), bottom = y(Math.max(100 * bin.low, spec.y.low));
    if (bottom > top) svg.append(s("rect", { x: left, width, y: top, height: Math.max(2, bottom - top), css: { fill: "var(--soft)", opacity: 0.22 } }));
  });
  spec.series.forEach((one, k) => {
    const shift = spec.series.length > 1 ? (k / (spec.series.length - 1) - 0.5) * 0.72 : 0;
    for (const p of one.points) {
      const px = x(p.bin + shift);
      const node = s("g", {},
        s("path", { d: `M${px},${y(p.lo)}V${y(p.hi)}`, css: { stroke: one.look.colour, strokeWidth: 1.3, opacity: 0.7 } }),
        s("circle", { cx: px, cy: y(p.y), r: 8, css: { fill: "transparent" } }),
        mark(one.look.shape, px, y(p.y), 4.2, { css: { fill: one.look.colour, stroke: "var(--bg)", strokeWidth: 1 } }));
      tip.on(node, p.tip);
      svg.append(node);
    }
  });
  return svg;
}

/* One row per setting, one mark per template, a line from the lowest to the highest. rows: [{name, look, dots: [{x, k, tip}]}] */
function spreadChart(spec) {
  const stacked = spec.width < 640; // a narrow figure has its names above the lines
  const font = 13, row = stacked ? 40 : 25, names = stacked ? 8 : Math.min(330, 26 + 7.4 * Math.max(...spec.rows.map((r) => r.name.length)));
  const top = 6, height = top + row * spec.rows.length, width = spec.width;
  const values = spec.rows.flatMap((r) => r.dots.map((d) => d.x));
  const [low, high] = accuracyRange(values);
  const x = (v) => names + ((v - low) / (high - low)) * (width - names - 14);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height + font * 3.2}`, "font-size": font, role: "group", "aria-label": "accuracy by template" });
  for (const t of niceTicks(low, high, (width - names) / 95)) {
    svg.append(s("line", { class: "grid", x1: x(t), x2: x(t), y1: top, y2: height }));
    svg.append(s("g", { class: "tick" }, s("text", { x: x(t), y: height + font * 1.3, "text-anchor": "middle" }, short(t))));
  }
  svg.append(s("text", { class: "axis", x: (names + width) / 2, y: height + font * 2.8, "text-anchor": "middle" }, "accuracy (%)"));
  spec.rows.forEach((one, i) => {
    const y = top + row * (i + (stacked ? 0.72 : 0.5)), xs = one.dots.map((d) => x(d.x));
    svg.append(s("text", { x: stacked ? names : names - 12, y: stacked ? y - 13 : y + font * 0.35, "text-anchor": stacked ? "start" : "end", "font-size": 12.5, css: { fontFamily: "var(--mono)" } }, one.name.length > 42 ? one.name.slice(0, 41) + "…" : one.name));
    svg.append(s("line", { x1: Math.min(...xs), x2: Math.max(...xs), y1: y, y2: y, css: { stroke: one.look.colour, strokeWidth: 2.5 } }));
    one.dots.forEach((d) => {
      const node = s("g", {}, mark(SHAPES[d.k % 8], x(d.x), y + (d.k % 3 - 1) * 6.2, 3.9, { css: { fill: one.look.colour, stroke: "var(--bg)", strokeWidth: 1 } }));
      tip.on(node, d.tip);
      svg.append(node);
    });
  });
  return svg;
}

/* The key of a mark, for legends. */
function keyOf(look, line, fillColour) {
  return s("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" },
    line ? s("line", { x1: 0, x2: 26, y1: 7, y2: 7, css: { stroke: look.colour, strokeWidth: 2, strokeDasharray: look.dash } }) : null,
    look.shape ? mark(look.shape, 13, 7, 4.6, { css: { fill: fillColour || look.colour, stroke: fillColour ? look.colour : "var(--bg)", strokeWidth: fillColour ? 1.6 : 1 } }) : null);
}

/* rows: [{name, look, cells: [{value (0 to 1 or null), text, tip, open} or null]}] */
function heatTable(caption, columns, rows) {
  return h("figure", {}, h("h3", {}, caption), h("div", { class: "scroll" }, h("table", { class: "heat" },
    h("thead", {}, h("tr", {}, h("td", {}), ...columns.map((name) => h("th", { scope: "col" }, h("span", {}, name))))),
    h("tbody", {}, ...rows.map((row) => h("tr", {},
      h("th", { scope: "row", class: "sticky", title: row.name }, row.look ? keyOf(row.look, false) : null, h("bdi", { class: "mono" }, row.name)),
      ...row.cells.map((cell) => {
        if (!cell) return h("td", { class: "none" }, "");
        const node = h("td", cell.value === null ? { class: "none" } : {}, cell.text);
        if (cell.value !== null) { const colour = ramp(BLUES, cell.value); node.style.background = colour.background; node.style.color = colour.ink; }
        tip.on(node, cell.tip);
        if (cell.open) { node.tabIndex = 0; node.addEventListener("click", cell.open); node.addEventListener("keydown", (e) => { if (e.key === "Enter") cell.open(); }); }
        return node;
      })))))));
}
