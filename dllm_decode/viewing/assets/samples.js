"use strict";
/* The samples behind one point, and the replay of one of them, in a dialog. */

function makeSamples(data, books) {
  const unpacked = new Map(); // task index -> promise of its samples
  let mounted = [], chosen = null, list = [];

  const title = h("h2", {}), under = h("p", { class: "soft", style: { margin: 0 } });
  const only = h("select", { "aria-label": "which samples" },
    ...[["all", "all samples"], ["wrong", "wrong answers"], ["right", "right answers"], ["differs", "answer differs from static"]].map(([value, name]) => h("option", { value }, name)));
  const beside = h("input", { type: "checkbox", id: "beside" });
  const note = h("p", { class: "soft", style: { fontSize: "13px" } });
  const items = h("ol", {});
  const detail = h("div", { class: "detail" });
  const dialog = h("dialog", { "aria-label": "samples" },
    h("header", {}, h("div", {}, title, under), h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close")),
    h("div", { class: "panes" },
      h("div", { class: "list" }, h("div", { class: "bar", style: { marginBottom: "6px" } }, only, h("label", { class: "group" }, beside, "static beside it")), note, items),
      detail));
  document.body.append(dialog);
  dialog.addEventListener("close", () => { unmount(); tip.hide(); history.replaceState(null, "", location.pathname + location.search); });
  only.addEventListener("change", () => showList());
  beside.addEventListener("change", () => { if (chosen) showSample(chosen); });

  const unmount = () => { mounted.forEach((one) => one.destroy()); mounted = []; };
  const labelName = (l) => data.labels[l].label;
  
  function load(t) {
    if (!unpacked.has(t)) {
      unpacked.set(t, readPacked(`replays-${t}`).then((chunk) => {
        const byKey = new Map();
        const samples = chunk.samples.map(([l, c, problem, correct, nfe, content, answer, early, replay]) => {
          const [template, seed, number, prompt, expected] = chunk.problems[problem];
          const one = { l, c, t, problem, template, seed, number, prompt, expected, correct, nfe, content, answer: chunk.answers[answer], early, replay };
          byKey.set(`${l}|${c}|${problem}`, one);
          return one;
        });
        for (const one of samples) one.static = byKey.get(`${data.static}|${one.c}|${one.problem}`);
        return samples;
      }));
    }
    return unpacked.get(t);
  }

  async function open(l, c, t, wanted) {
    const row = data.rows.find((r) => r.l === l && r.c === c && r.t === t);
    fill(title, h("bdi", { class: "mono" }, labelName(l)), ` on ${taskName(t)}`);
    under.textContent = `cache ${data.caches[c]}` + (row ? `, accuracy ${percent(row.accuracy)} % (${percent(row.accuracy_low)}–${percent(row.accuracy_high)}), ${fixed(2)(row.tpf_content)} content tokens per forward, ${count(row.n, "sample")}` : "");
    fill(items); fill(detail, h("p", { class: "soft" }, "unpacking…"));
    if (!dialog.open) dialog.showModal();
    try {
      const tasks = t < 0 ? data.tasks.map((_, i) => i) : [t];
      list = (await Promise.all(tasks.map(load))).flat().filter((one) => one.l === l && one.c === c)
        .sort((a, b) => a.t - b.t || a.problem - b.problem);
    } catch (error) {
      fill(detail, h("p", { class: "noscript" }, `The replays cannot be shown: ${error.message}.`));
      return;
    }
    note.textContent = row && list.length < row.n ? `${list.length} of ${row.n} samples are kept in this page.` : "";
    only.value = "all";
    showList(wanted);
    if (chosen && chosen.button) chosen.button.focus({ preventScroll: true });
  }

  const shows = {
    all: () => true, wrong: (one) => !one.correct, right: (one) => one.correct,
    differs: (one) => one.static && one.static.answer !== one.answer,
  };

  function showList(wanted) {
    const picked = list.filter(shows[only.value]);
    const t = new Set(list.map((one) => one.t)).size > 1, worded = new Set(list.map((one) => one.template)).size > 1;
    fill(items, picked.map((one) => {
      const button = h("button", { type: "button", class: "sample", onclick: () => showSample(one) },
        h("span", { class: "line" }, h("span", { class: one.correct ? "right" : "wrong", "aria-label": one.correct ? "right" : "wrong" }, one.correct ? "✓" : "✗"),
          h("span", {}, `${t ? taskName(one.t) + " " : ""}#${one.number}${worded ? `, wording ${one.template}` : ""}`), h("span", {}, `${(one.content / Math.max(1, one.nfe)).toFixed(2)} TPF`)),
        h("div", { class: "what" }, h("bdi", {}, one.prompt)));
      one.button = button;
      return h("li", {}, button);
    }));
    if (!picked.length) { unmount(); fill(detail, h("p", { class: "soft" }, list.length ? "No sample is like that." : "No sample of this setting is kept in this page.")); return; }
    showSample(picked.find((one) => wanted && one.template === wanted.template && one.seed === wanted.seed && one.number === wanted.number) || picked[0], true);
  }

  function showSample(one, still) {
    unmount();
    chosen = one;
    items.querySelectorAll("[aria-current]").forEach((node) => node.removeAttribute("aria-current"));
    if (one.button) { one.button.setAttribute("aria-current", "true"); if (!still) one.button.focus({ preventScroll: true }); one.button.scrollIntoView({ block: "nearest" }); }
    const compare = one.static && one.l !== data.static ? one.static : null;
    const book = books[one.t];
    const main = h("div", {}), other = h("div", {});
    const pair = compare && beside.checked;
    fill(detail,
      h("dl", { class: "quote" }, h("dt", {}, `prompt (task ${taskName(one.t)}, template ${one.template}, seed ${one.seed}, sample ${one.number})`), h("dd", { dir: "auto" }, one.prompt || "(none)"),
        h("dt", {}, "answer, ", h("span", { class: one.correct ? "right" : "wrong" }, one.correct ? "right" : "wrong"), one.early ? ", stopped early" : ""), h("dd", { dir: "auto" }, one.answer || "(empty)"),
        h("dt", {}, "one right answer"), h("dd", { dir: "auto" }, one.expected)),
      h("div", { class: "pair" }, h("div", {}, pair ? h("h3", {}, labelName(one.l)) : null, main), pair ? h("div", {}, h("h3", {}, labelName(data.static)), other) : null));
    const options = { keys: dialog };
    if (compare) {
      const replay = unpackReplay(compare.replay, book.mask);
      const end = canvasAt(replay, replay.steps.length, book.mask);
      options.compare = end.tokens.slice(0, end.length);
    }
    let right = null;
    if (pair) { // one forward here is one forward there
      right = mountViewer(other, compare.replay, book, { keys: other, brief: true });
      options.onstep = (k) => { if (right) right.go(k); };
    }
    mounted = [mountViewer(main, one.replay, book, options)];
    if (right) { right.go(right.total); mounted.push(right); }
    detail.scrollTop = 0;
    const key = [labelName(one.l), data.caches[one.c], taskName(one.t), one.template, one.seed, one.number];
    history.replaceState(null, "", "#" + key.map(encodeURIComponent).join("|"));
  }

  /* A link to one sample, as the address line shows it. */
  function openLink() {
    const parts = location.hash.slice(1).split("|").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
    if (parts.length !== 6) return;
    const l = data.labels.findIndex((one) => one.label === parts[0]), c = data.caches.indexOf(parts[1]), t = data.tasks.indexOf(parts[2]);
    const as = (value) => (Number.isNaN(Number(value)) || value === "null" ? value : Number(value));
    if (l >= 0 && c >= 0 && t >= 0) open(l, c, t, { template: as(parts[3]), seed: as(parts[4]), number: as(parts[5]) });
  }

  return { open, openLink };
}
