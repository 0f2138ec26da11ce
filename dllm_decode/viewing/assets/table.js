"use strict";
/* The sortable table of every setting. */

const FORMATS = {
  percent: (x) => percent(x), signed: (x) => (x === null || x === undefined ? "–" : (x > 0 ? "+" : x < 0 ? "−" : "±") + (100 * Math.abs(x)).toFixed(1)),
  two: fixed(2), one: fixed(1), three: fixed(3), four: fixed(4), whole: fixed(0), text: (x) => x ?? "–",
  p: (x) => (x === null || x === undefined ? "–" : x < 0.001 ? "< 0.001" : x.toFixed(3)),
};

/* A policy string that may break after its punctuation. */
const breakable = (text) => text.split(/(?<=[:,+=])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

function drawTable(root) {
  const groups = [...new Set(data.columns.map((column) => column.group))];
  const state = { task: -1, cache: -1, text: "", key: null, down: false, groups: new Set(groups.slice(0, 2)) };
  const every = [
    { key: "label", name: "policy", kind: "text", help: "the setting; click a row for its samples" },
    { key: "cacheName", name: "cache", kind: "text", help: "KV cache" },
    ...data.columns,
  ];
  let columns = [], heads = [];
  const body = h("tbody", {}), head = h("tr", {});
  const makeHead = (column) => {
    const th = h("th", { scope: "col", class: column.kind === "text" ? "left" : "", title: column.help }, h("button", { type: "button", onclick: () => sortBy(column) }, column.name));
    if (column.key === "label") th.classList.add("sticky");
    return th;
  };
  const toggles = groups.map((group) => h("button", { type: "button", "aria-pressed": String(state.groups.has(group)), onclick: (event) => {
    state.groups.has(group) ? state.groups.delete(group) : state.groups.add(group);
    event.currentTarget.setAttribute("aria-pressed", String(state.groups.has(group)));
    show();
  } }, group));
  const filter = (name, node) => h("label", { class: "group" }, name, node);
  const task = h("select", {}, h("option", { value: -1 }, ALL), ...data.tasks.map((name, t) => h("option", { value: t }, name)));
  const cache = h("select", {}, h("option", { value: -1 }, "all"), ...data.caches.map((name, c) => h("option", { value: c }, name)));
  const text = h("input", { type: "search", placeholder: "policy contains…", "aria-label": "policy contains" });
  task.addEventListener("change", () => { state.task = Number(task.value); show(); });
  cache.addEventListener("change", () => { state.cache = Number(cache.value); show(); });
  text.addEventListener("input", () => { state.text = text.value.toLowerCase(); show(); });
  fill(root, h("div", { class: "bar" }, filter("task", task), data.caches.length > 1 ? filter("cache", cache) : null, text, h("span", { class: "group" }, "columns", toggles)),
    h("div", { class: "scroll" }, h("table", { class: "sortable" }, h("thead", {}, head), body)));

  function sortBy(column) {
    const first = column.kind !== "text" && !column.low; // figures start with the highest, unless low is good
    state.down = state.key === column.key ? !state.down : first;
    state.key = column.key;
    show();
  }

  const valueOf = (row, key) => (key === "label" ? data.labels[row.l].label : key === "cacheName" ? data.caches[row.c] : row[key]);

  function show() {
    columns = every.filter((column) => !column.group || state.groups.has(column.group));
    heads = columns.map(makeHead);
    fill(head, heads);
    const rows = data.rows.filter((r) => r.t === state.task && (state.cache < 0 || r.c === state.cache) && data.labels[r.l].label.toLowerCase().includes(state.text));
    if (state.key) {
      rows.sort((a, b) => {
        const x = valueOf(a, state.key), y = valueOf(b, state.key);
        if (x === null || x === undefined) return 1; // what is missing stays last
        if (y === null || y === undefined) return -1;
        const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
        return state.down ? -order : order;
      });
    }
    heads.forEach((th, i) => (columns[i].key === state.key ? th.setAttribute("aria-sort", state.down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    fill(body, rows.map((row) => {
      const open = () => samples.open(row.l, row.c, row.t);
      const tr = h("tr", { class: row.l === data.static ? "pick static" : "pick", tabindex: 0, onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } });
      columns.forEach((column, i) => {
        const format = FORMATS[column.kind], value = format(valueOf(row, column.key));
        const low = row[column.key + "_low"], high = row[column.key + "_high"];
        const range = low === undefined || low === null ? null : h("span", { class: "range" }, ` ${format(low)} to ${format(high)}`);
        tr.append(i ? h("td", { class: column.kind === "text" ? "left" : "" }, h("bdi", {}, value), range) : h("th", { scope: "row", class: "sticky" }, h("bdi", { class: "mono" }, breakable(value))));
      });
      return tr;
    }));
  }
  show();
}
