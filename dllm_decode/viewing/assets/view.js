"use strict";
/* The page of one trace file: choose a row, replay it. */

(async function () {
  const data = readJson("data");
  const root = document.getElementById("replay"), keys = document.body;
  let mounted = null, traces = [];
  try {
    traces = await readPacked("traces");
  } catch (error) {
    fill(root, h("p", { class: "noscript" }, `The replay cannot be shown: ${error.message}.`));
    return;
  }
  const choice = h("select", { "aria-label": "row" }, ...traces.map((one, i) => h("option", { value: i }, one.name)));
  if (traces.length > 1) fill(document.getElementById("pick"), h("label", { class: "group" }, "row", choice));
  choice.addEventListener("change", () => { show(Number(choice.value)); choice.blur(); });

  function show(i) {
    const one = traces[i];
    if (mounted) mounted.destroy();
    choice.value = i;
    fill(document.getElementById("facts"), Object.entries(one.facts).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("bdi", {}, value)))));
    fill(document.getElementById("prompt"), one.prompt ? h("dl", { class: "quote" }, h("dt", {}, "prompt"), h("dd", { dir: "auto" }, one.prompt)) : null);
    mounted = mountViewer(root, one.replay, { mask: one.mask, eos: new Set(one.eos), pieces: data.pieces[one.book] }, { keys });
  }
  show(0);
  document.documentElement.dataset.ready = "yes";
})();
