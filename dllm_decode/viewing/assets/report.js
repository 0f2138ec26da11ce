"use strict";
/* The comparison page: reads the data blocks, draws the figures, opens the samples. */

const data = readJson("data");
const books = data.masks.map((mask, t) => ({ mask, eos: new Set(data.oracles[t] ? [] : data.eos), pieces: data.oracles[t] ? {} : data.pieces }));
const samples = makeSamples(data, books);
const STATIC = { colour: "var(--static)", shape: "circle", dash: "6 4" };
const staticFamily = data.labels[data.static].family;
const ACROSS = data.across.map(([key, name]) => ({ key, name }));
const view = { cache: 0, task: -1, across: ACROSS[0], hidden: new Set([staticFamily]) };
const ALL = data.oracles.includes(true) && data.oracles.includes(false) ? "all tasks but oracles" : "all tasks";
const taskName = (t) => (t < 0 ? ALL : data.tasks[t]);
const familyOf = (l) => data.labels[l].family;
const here = (one, t, c = view.cache) => one.t === t && one.c === c;
const rowsOf = (t) => data.rows.filter((r) => here(r, t));
const rowAt = (l, t) => data.rows.find((r) => r.l === l && here(r, t));
const curvesOf = (t) => data.curves.filter((one) => here(one, t) && visible(one.f));
const visible = (f) => !view.hidden.has(f);
const look = (l) => (l === data.static ? STATIC : looks()[familyOf(l)]);
const room = () => Math.max(300, Math.min(1100, section("frontier").clientWidth || 1100)); // figures are drawn to fit
const narrow = () => room() < 640;

/* Families with a setting that none beats in both speed and accuracy over all tasks; what ties with one counts too. */
function front(c = view.cache) {
  const rows = data.rows.filter((r) => r.t === -1 && r.c === c && r.tpf_content > 0);
  const beaten = (r) => rows.some((q) => q.tpf_content >= r.tpf_content && q.accuracy >= r.accuracy && (q.tpf_content > r.tpf_content || q.accuracy > r.accuracy));
  return [...new Set(rows.filter((r) => !beaten(r) && r.l !== data.static).sort((a, b) => b.tpf_content - a.tpf_content).map((r) => familyOf(r.l)))];
}

/* Colours go to the front's families; the rest are grey, and keep a shape of their own. */
const looks = () => {
  const lit = front();
  return data.families.map((_, f) => (lit.includes(f) ? lookOf(lit.indexOf(f)) : { ...lookOf(f - 1), colour: "var(--rest)", faint: true }));
};
const BOUNDS = { "per-sample best": "star", egp: "diamond", L_T: "bar" };
const BOUND_NAMES = { egp: "EGP, an oracle that commits all that will agree with static", L_T: "L_T, the information-theoretic bound" };

function describe(r) {
  const lines = [data.labels[r.l].label, `${taskName(r.t)}, cache ${data.caches[r.c]}`,
    `accuracy ${percent(r.accuracy)} % (95 %: ${percent(r.accuracy_low)}–${percent(r.accuracy_high)}), ${r.n} samples`,
    `content tokens per forward ${fixed(2)(r.tpf_content)}`, `forwards per sample ${fixed(1)(r.nfe)}`];
  if (view.across.key !== "tpf_content") lines.push(`${view.across.name} ${r[view.across.key] === null ? "–" : Number(r[view.across.key].toPrecision(3))}`);
  return lines.join("\n");
}

function frontier(t, size) {
  const base = rowAt(data.static, t);
  const key = view.across.key, usable = (r) => r && r[key] > 0;
  const every = looks();
  const series = curvesOf(t).map((curve) => {
    const rows = curve.labels.filter((l) => l !== data.static).map((l) => rowAt(l, t)).filter(usable).sort((a, b) => a[key] - b[key]);
    return { look: every[curve.f], line: rows.map((r) => [r[key], 100 * r.accuracy]), points: rows.map(point) };
  }).sort((a, b) => Boolean(b.look.faint) - Boolean(a.look.faint));
  if (usable(base)) series.unshift({ look: STATIC, line: [], points: [point(base)] });
  const markers = data.bounds.filter((b) => here(b, t) && b[key] > 0 && (b.f === null || (visible(b.f) && !every[b.f].faint))).map((b) => ({
    x: b[key], y: 100 * b.accuracy, shape: BOUNDS[b.name] || "hex", colour: b.f === null ? "var(--bound)" : every[b.f].colour,
    open: b.l === null ? null : () => samples.open(b.l, b.c, b.t),
    tip: `${boundName(b)} (a bound, not a policy)\naccuracy ${percent(b.accuracy)} %\n${view.across.name} ${Number(b[key].toPrecision(3))}`,
  }));
  return frontierChart({
    ...size, series, markers, task: taskName(t), title: `accuracy against ${view.across.name}, ${taskName(t)}`, xlabel: view.across.name + (size.wide ? " (log scale)" : ""),
    level: base ? { y: 100 * base.accuracy, name: "static" } : null,
  });
}

const cacheName = () => `cache ${data.caches[view.cache]}`;
const heading = (t) => `${t < 0 ? ALL.replace("a", "A") : data.tasks[t]}, ${cacheName()}`;
const place = () => h("h3", {}, heading(view.task));
const boundName = (b) => (b.name === "per-sample best" ? `per-sample best setting of ${b.f === null ? "all policies" : data.families[b.f]}` : BOUND_NAMES[b.name] || b.name);

function point(r) {
  return { x: r[view.across.key], left: r[view.across.key + "_low"], right: r[view.across.key + "_high"], y: 100 * r.accuracy, lo: 100 * r.accuracy_low, hi: 100 * r.accuracy_high, tip: describe(r), label: data.labels[r.l].label, open: () => samples.open(r.l, r.c, r.t) };
}

function legend() {
  const bounds = [...new Set(data.bounds.filter((b) => b.c === view.cache).map((b) => b.name))];
  const every = looks(), lit = front();
  const order = [...lit, ...data.families.map((_, f) => f).filter((f) => f !== staticFamily && !lit.includes(f))];
  return h("div", { class: "legend" },
    order.map((f) => h("button", { type: "button", "aria-pressed": String(visible(f)), title: "show or hide", onclick: () => { visible(f) ? view.hidden.add(f) : view.hidden.delete(f); draw(); } }, keyOf(every[f], true), h("bdi", {}, data.families[f]))),
    h("span", { class: "key" }, keyOf(STATIC, true), "static"),
    bounds.map((name) => h("span", { class: "key" }, keyOf({ colour: "var(--bound)", shape: BOUNDS[name] || "hex" }, false, "var(--bg)"), name === "per-sample best" ? "per-sample best setting of a family (its colour) or of all" : BOUND_NAMES[name] || name)));
}

/* One setting per family, for the figures that would drown in all of them. */
function representatives(t) {
  const found = data.shown.find((one) => here(one, t));
  return found ? found.labels.filter((l) => visible(familyOf(l))) : [];
}

const section = (id) => document.querySelector(`#${id} .body`);
const chosenLegend = (ls) => h("div", { class: "legend" }, ls.map((l) => h("span", { class: "key" }, keyOf(look(l), true), h("bdi", { class: "mono" }, data.labels[l].label))));

function drawFrontiers() {
  const across = h("select", {}, ACROSS.map((one, i) => h("option", { value: i, selected: one === view.across }, one.name)));
  across.addEventListener("change", () => { view.across = ACROSS[Number(across.value)]; drawFrontiers(); });
  fill(section("frontier"), h("div", { class: "bar" }, h("label", { class: "group" }, "accuracy against", across)), legend(), h("figure", { id: "overall" }, h("h3", {}, heading(-1)), frontier(-1, { width: room(), height: narrow() ? 340 : 430, font: 14, size: narrow() ? 5 : 6.5, right: narrow() ? 10 : 66, wide: true })),
    data.tasks.length > 1 ? h("div", { class: "small" }, data.tasks.map((name, t) => h("figure", { "data-task": name }, h("h3", {}, name), frontier(t, { width: 300, height: 232, font: 11.5, size: 4.6 })))) : null);
}

function drawHeat() {
  const every = looks();
  const tasks = [...data.tasks.keys(), -1].filter((t) => t >= 0 || data.tasks.length > 1);
  const columns = tasks.map(taskName);
  const found = data.curves.filter((curve) => curve.c === view.cache && curve.best["1"]);
  const speeds = found.map((curve) => curve.best["1"].tpf_content).filter((x) => x > 0);
  const low = Math.log(Math.min(...speeds) * 0.9), high = Math.log(Math.max(...speeds));
  const families = data.families.map((name, f) => f !== staticFamily && {
    name, look: every[f],
    cells: tasks.map((t) => {
      const curve = data.curves.find((one) => one.f === f && here(one, t));
      const best = curve && curve.best["1"];
      if (!best) return null;
      const tip = `${data.labels[best.label].label}\n${taskName(t)}: ${best.tpf_content.toFixed(2)} content tokens per forward at accuracy ${percent(best.accuracy)} %`;
      const none = best.label === data.static;
      return { value: none ? null : (Math.log(best.tpf_content) - low) / (high - low || 1), text: best.tpf_content.toFixed(2), tip: none ? `${tip}\nno setting of ${name} is faster than static within one point` : tip, open: () => samples.open(best.label, view.cache, t) };
    }),
  }).filter(Boolean);
  const accuracy = data.labels.map((one, l) => one.family !== null && {
    name: one.label, look: look(l),
    cells: tasks.map((t) => { const r = rowAt(l, t); return r ? { value: r.accuracy ** 2, text: percent(r.accuracy, 0), tip: describe(r), open: () => samples.open(l, view.cache, t) } : null; }),
  }).filter(Boolean);
  fill(section("heat"), h("div", { class: "heats" },
    heatTable("Best content tokens per forward at no more than one point of loss, " + cacheName() + " (grey: static is the best the family offers)", columns, families),
    heatTable(`Accuracy (%), ${cacheName()}`, columns, accuracy)));
}

function drawCurves() {
  const rows = curvesOf(view.task).map((curve) => [curve.f, curve]);
  const best = (one) => (one ? [h("b", {}, one.tpf_content.toFixed(2)), " ", h("bdi", { class: "mono soft" }, data.labels[one.label].label)] : "–");
  fill(section("curves"), place(), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ...[["policy family", "left"], ["AUP", ""], ["best TPF, no loss", "left"], ["at 1 point of loss", "left"], ["at 2 points", "left"]].map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
    h("tbody", {}, rows.map(([f, curve]) => h("tr", {}, h("th", { scope: "row" }, h("bdi", { class: "mono" }, data.families[f])), h("td", {}, fixed(1)(curve.aup)),
      ...["0", "1", "2"].map((loss) => h("td", { class: "left" }, best(curve.best[loss]))))))),
  ), h("p", { class: "soft", style: { fontSize: "13px", marginTop: "6px" } }, rows.length ? `AUP with alpha 3, offset 5, y_max ${fixed(1)(rows[0][1].y_max)} %; AUPs of another y_max do not compare. Every family's curve starts at static.` : ""));
}

function drawSteps() {
  const ls = [...representatives(view.task).sort((a, b) => Boolean(look(b).faint) - Boolean(look(a).faint)), data.static];
  const series = ls.map((l) => [l, data.steps.find((one) => one.l === l && here(one, view.task))]).filter(([, found]) => found).map(([l, found]) => ({
    look: look(l),
    points: found.mean.map((mean, i) => ({ x: ((i + 0.5) * 100) / found.mean.length, y: mean, tip: `${data.labels[l].label}\n${Math.round((i * 100) / found.mean.length)}–${Math.round(((i + 1) * 100) / found.mean.length)} % of the forwards: ${mean.toFixed(2)} content tokens each` })),
  }));
  const high = Math.max(1, ...series.flatMap((one) => one.points.map((p) => p.y)));
  fill(section("steps"), place(), chosenLegend(ls), h("figure", {}, lineChart({ width: room(), height: 330, font: 14, title: "tokens committed per forward", series, x: { low: 0, high: 100, ticks: [0, 20, 40, 60, 80, 100], label: "progress (% of the sample's forwards)" }, y: { low: 0, high: high * 1.06, label: "content tokens per forward" } })));
}

function drawCalibration() {
  const chosen = representatives(view.task), lit = chosen.filter((l) => !look(l).faint);
  const ls = lit.length ? lit : chosen;
  const edges = data.edges;
  const bins = edges.slice(0, -1).map((low, i) => ({ low, high: edges[i + 1], name: `${Math.round(100 * low)}–${Math.round(100 * edges[i + 1])}` }));
  const series = ls.map((l) => [l, data.calibration.find((one) => one.l === l && here(one, view.task))]).filter(([, found]) => found).map(([l, found]) => ({
    look: look(l),
    points: found.bins.map((bin, i) => bin && { bin: i, y: 100 * bin.agreement, lo: 100 * bin.low, hi: 100 * bin.high, tip: `${data.labels[l].label}\nconfidence ${bins[i].name} % (mean ${percent(bin.confidence)} %)\n${percent(bin.agreement)} % agree with static (95 %: ${percent(bin.low)}–${percent(bin.high)})\n${bin.n} commits` }).filter(Boolean),
  }));
  const lows = series.flatMap((one) => one.points.map((p) => p.lo));
  const low = Math.max(0, Math.floor(Math.min(50, ...lows) / 10) * 10);
  fill(section("calibration"), place(), chosenLegend(ls), h("figure", {}, binChart({ width: room(), height: 360, font: 14, title: "calibration", series, bins: narrow() ? bins.map((b) => ({ ...b, name: b.name.split("–")[0] })) : bins, xlabel: narrow() ? "confidence at the commit, from … % on" : "confidence at the commit (%)", y: { low, high: 101, label: "same token as static (%)" } })));
}

function drawTemplates() {
  const found = data.templates.filter((one) => here(one, view.task) && (one.l === data.static || visible(familyOf(one.l))));
  const names = [...new Set(found.flatMap((one) => one.values.map((v) => v.template)))].sort((a, b) => a - b);
  if (names.length < 2) { fill(section("templates"), h("p", { class: "soft" }, "This run used one template per task, so there is no spread to show.")); return; }
  const rows = found.map((one) => ({
    name: data.labels[one.l].label, look: look(one.l),
    dots: one.values.map((v) => ({ x: 100 * v.accuracy, k: names.indexOf(v.template), tip: `${data.labels[one.l].label}\ntemplate ${v.template}: ${percent(v.accuracy)} % (95 %: ${percent(v.low)}–${percent(v.high)}), ${v.n} samples` })),
  }));
  fill(section("templates"), place(), h("div", { class: "legend" }, names.map((name, k) => h("span", { class: "key" }, keyOf({ colour: "var(--soft)", shape: SHAPES[k % 8] }), `template ${name}`))),
    h("figure", {}, spreadChart({ width: room(), rows })));
}

function draw() {
  drawFrontiers(); drawHeat(); drawCurves(); drawSteps(); drawCalibration(); drawTemplates();
  document.querySelectorAll("select.task").forEach((node) => { node.value = view.task; });
  document.querySelectorAll(".caches button").forEach((node, c) => node.setAttribute("aria-pressed", String(c === view.cache)));
}

function taskSelect() {
  const node = h("select", { class: "task", "aria-label": "task" }, h("option", { value: -1 }, ALL), ...data.tasks.map((name, t) => h("option", { value: t }, name)));
  node.addEventListener("change", () => { view.task = Number(node.value); drawCurves(); drawSteps(); drawCalibration(); drawTemplates(); document.querySelectorAll("select.task").forEach((one) => { one.value = view.task; }); });
  return h("div", { class: "bar" }, h("label", { class: "group" }, "task", node));
}

function start() {
  document.querySelectorAll("[data-tasks]").forEach((node) => node.replaceWith(taskSelect()));
  document.querySelectorAll("[data-caches]").forEach((node) => {
    node.replaceWith(data.caches.length > 1 ? h("div", { class: "bar caches" }, h("span", { class: "soft" }, "cache shown in the figures"), ...data.caches.map((name, c) => h("button", { type: "button", onclick: () => { view.cache = c; draw(); } }, name))) : h("p", { class: "soft" }, `cache ${data.caches[0]}`));
  });
  drawTable(section("table"));
  draw();
  samples.openLink();
  addEventListener("hashchange", samples.openLink);
  let drawn = room();
  addEventListener("resize", () => { if (Math.abs(room() - drawn) > 20) { drawn = room(); draw(); } });
  document.documentElement.dataset.ready = "yes";
}

start();
