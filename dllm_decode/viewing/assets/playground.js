"use strict";
/* The playground: asks the server it came from, shows each draft as it comes, and ends in the replay. */

(function () {
  const data = readJson("data"), $ = (id) => document.getElementById(id);
  const fields = {
    cache: h("select", {}, ...["none", "prefix", "dual"].map((name) => h("option", { selected: name === data.cache }, name))),
    max_tokens: h("input", { type: "number", min: 1, max: data.most_tokens, value: Math.min(data.max_tokens, 64) }),
    block_length: h("input", { type: "number", min: 1, value: data.block_length || 32 }),
    temperature: h("input", { type: "number", min: 0, max: 2, step: 0.1, value: data.temperature }),
    seed: h("input", { type: "number", min: 0, value: 0 }),
    chat: h("input", { type: "checkbox", checked: data.chat }),
    key: h("input", { type: "password", autocomplete: "off", placeholder: "if the server asks for one" }),
  };
  const names = { max_tokens: "canvas", block_length: "block", key: "API key", chat: "chat template" };
  fill($("settings"), Object.entries(fields).map(([name, node]) => h("label", { class: "group" }, names[name] || name, node)));
  const inputs = [0, 1, 2, 3].map((i) => h("input", {
    type: "text", list: "known", spellcheck: "false", class: "policy", "aria-label": `policy ${i + 1}`,
    value: data.policies[i] || "", placeholder: i ? "another policy" : data.policy,
  }));
  $("policies").append(h("div", { class: "bar" }, ...inputs), h("datalist", { id: "known" }, ...data.known.map((name) => h("option", { value: name }))));

  let abort = null, lanes = [];

  /* What the form says, as the bodies that are sent: [path, body] per policy. */
  function asks() {
    const text = $("prompt").value, hole = /\[\[(\d{1,4})\]\]/.exec(text), value = (name) => Number(fields[name].value);
    const chosen = inputs.map((node) => node.value.trim()).filter(Boolean);
    return (chosen.length ? chosen : [data.policy]).map((policy) => {
      const body = {
        model: data.model, max_tokens: hole ? Number(hole[1]) : value("max_tokens"), temperature: value("temperature"), seed: value("seed"),
        dllm: { policy, cache: fields.cache.value, block_length: value("block_length") },
      };
      if (hole) Object.assign(body, { prompt: text.slice(0, hole.index), suffix: text.slice(hole.index + hole[0].length) });
      else if (fields.chat.checked) body.messages = [{ role: "user", content: text }];
      else body.prompt = text;
      return [body.messages ? "/v1/chat/completions" : "/v1/completions", body];
    });
  }

  function headers() {
    const own = { "Content-Type": "application/json" };
    if (fields.key.value) own.Authorization = `Bearer ${fields.key.value}`;
    return own;
  }

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }

  /* A canvas that applies deltas; cells are coloured by the forward that committed them. */
  function liveCanvas(root) {
    const canvas = h("div", { class: "canvas", "aria-label": "canvas" });
    let cells = [];
    root.append(canvas);
    return (draft, span) => {
      const masks = (number) => Array.from({ length: number }, () => h("span", { class: "cell mask" }, "·"));
      const put = (at, nodes) => {
        for (const node of nodes) canvas.insertBefore(node, cells[at] || null);
        cells.splice(at, 0, ...nodes);
      };
      const [at, number, token] = draft.inserted || [0, 0];
      if (!cells.length) put(0, masks(draft.length - number));
      draft.cells.forEach((cell, j) => {
        const node = cells[cell];
        if (!node) return;
        const colour = ramp(VIRIDIS, (draft.step - 1) / span);
        node.className = "cell done";
        node.textContent = data.eos.includes(draft.tokens[j]) ? "∎" : draft.pieces[j];
        Object.assign(node.style, { backgroundColor: colour.background, color: colour.ink });
      });
      if (number) put(at, masks(number));
      if (number && data.eos.includes(token)) cells.slice(at, at + number).forEach((node) => { node.textContent = "∎"; });
      while (cells.length > draft.length) cells.pop().remove();
      put(cells.length, masks(draft.length - cells.length)); // a draft was dropped
      cells.forEach((node, i) => node.classList.toggle("block", i >= draft.block[0] && i < draft.block[1]));
    };
  }

  async function run(path, body, lane) {
    const began = performance.now();
    const figures = h("p", { class: "soft", "aria-live": "off" }, "waiting"), live = h("div", {}), text = h("p", { class: "text answer" });
    fill(lane.body, figures, live, text);
    const draw = liveCanvas(live);
    const response = await fetch(path, {
      method: "POST", headers: headers(), signal: abort.signal,
      body: JSON.stringify({ ...body, stream: true, dllm: { ...body.dllm, drafts: true, trace: true } }),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    let first = null;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (!choice) {
        if (event.dllm && event.dllm.cells) {
          draw(event.dllm, Math.max(8, event.dllm.length / 2));
          figures.textContent = `forward ${event.dllm.step}, ${Math.round(performance.now() - began)} ms`;
        }
        continue;
      }
      const said = choice.delta ? choice.delta.content : choice.text;
      if (said) { first = first === null ? performance.now() - began : first; text.textContent += said; }
      if (choice.finish_reason) finish(lane, choice, text.textContent, performance.now() - began, first);
    }
  }

  function finish(lane, choice, text, spent, first) {
    const own = choice.dllm, content = own.replay.v.length ? text : "";
    const replay = unpackReplay(own.replay, own.mask_id), eos = new Set(own.eos_ids);
    const cells = canvasAt(replay, own.replay.k.length, own.mask_id).tokens;
    const tokens = contentOf(cells, cells.map((token, i) => replay.given.has(i)), eos, own.mask_id);
    const root = h("div", {});
    const figure = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    fill(lane.body, h("dl", { class: "facts" }, figure("forwards", own.nfe), figure("tokens per forward", (tokens / Math.max(1, own.nfe)).toFixed(2)),
      figure("ms", Math.round(spent)), figure("ms to first text", first === null ? "–" : Math.round(first)), figure("ended by", choice.finish_reason)),
    h("p", { class: "text answer", dir: "auto" }, content), root,
    h("div", { class: "bar" }, h("button", { type: "button", class: "trace", onclick: () => save("trace.jsonl", own.trace.map((line) => JSON.stringify(line)).join("\n") + "\n", "application/jsonl") }, "Trace"),
      h("button", { type: "button", class: "standalone", onclick: () => standalone(own).catch(say) }, "Standalone page")));
    lane.viewer = mountViewer(root, own.replay, { mask: own.mask_id, eos, pieces: own.pieces }, { brief: true, onstep: (now) => follow(lane, now) });
  }

  let following = false;
  function follow(lane, now) {
    if (following || !$("together").checked || !lane.viewer) return;
    following = true;
    for (const other of lanes) if (other !== lane && other.viewer) other.viewer.go(now);
    following = false;
  }

  function save(name, text, type) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = h("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  async function standalone(own) {
    const response = await fetch("/v1/dllm/replay", { method: "POST", headers: headers(), body: JSON.stringify({ trace: own.trace, pieces: own.pieces }) });
    if (!response.ok) throw new Error((await response.json()).error.message);
    save("replay.html", await response.text(), "text/html");
  }

  const say = (said) => { $("status").textContent = said instanceof Error ? said.message : said; };

  async function start(event) {
    event.preventDefault();
    if (abort) abort.abort();
    for (const lane of lanes) if (lane.viewer) lane.viewer.destroy();
    abort = new AbortController();
    const mine = abort, given = asks();
    lanes = given.map(([, body]) => ({ body: h("div", {}), name: body.dllm.policy, viewer: null }));
    fill($("lanes"), lanes.map((lane) => h("section", { class: "lane", "aria-label": lane.name }, h("h2", {}, h("bdi", {}, lane.name)), lane.body)));
    $("stop").disabled = false;
    $("snippet").hidden = true; // it was of what had been asked before
    say("decoding");
    document.documentElement.dataset.state = "running";
    await Promise.all(given.map(([path, body], i) => run(path, body, lanes[i]).catch((error) => fill(lanes[i].body, h("p", { class: "wrong", role: "alert" }, error.name === "AbortError" ? "stopped" : error.message)))));
    if (mine !== abort) return;
    $("stop").disabled = true;
    say("done");
    document.documentElement.dataset.state = "done";
  }

  function show(text) {
    $("snippet").hidden = false;
    $("snippet").textContent = text;
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => say("copied"), () => say("select the text below to copy it"));
  }

  function state() {
    const out = { prompt: $("prompt").value, policies: inputs.map((node) => node.value) };
    for (const [name, node] of Object.entries(fields)) if (name !== "key") out[name] = node.type === "checkbox" ? node.checked : node.value;
    return out;
  }

  function restore() {
    try {
      const said = JSON.parse(decodeURIComponent(location.hash.slice(1)));
      $("prompt").value = String(said.prompt ?? "");
      inputs.forEach((node, i) => { node.value = String((said.policies || [])[i] ?? ""); });
      for (const [name, node] of Object.entries(fields)) {
        if (name === "key" || !(name in said)) continue;
        if (node.type === "checkbox") node.checked = Boolean(said[name]);
        else node.value = String(said[name]);
      }
    } catch (error) { /* not a link of ours */ }
  }

  const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
  $("ask").addEventListener("submit", start);
  $("stop").addEventListener("click", () => abort && abort.abort());
  $("link").addEventListener("click", () => { location.hash = encodeURIComponent(JSON.stringify(state())); show(location.href); });
  $("curl").addEventListener("click", () => show(asks().map(([path, body]) => `curl ${location.origin}${path} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`).join("\n")));
  const words = { null: "None", true: "True", false: "False" };
  function python(value) {
    if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
    if (value && typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
    return words[value === null || typeof value === "boolean" ? value : ""] || JSON.stringify(value);
  }
  $("python").addEventListener("click", () => show([
    "from openai import OpenAI", "", `client = OpenAI(base_url=${JSON.stringify(location.origin + "/v1")}, api_key="none")`,
    ...asks().map(([path, { dllm, ...rest }]) => [
      `answer = client.${path.includes("chat") ? "chat.completions" : "completions"}.create(`,
      ...Object.entries(rest).map(([name, value]) => `    ${name}=${python(value)},`),
      `    extra_body={"dllm": ${python(dllm)}},`, ")", "print(answer.choices[0])",
    ].join("\n")),
  ].join("\n")));
  if (location.hash.length > 1) restore();
  document.documentElement.dataset.ready = "yes";
})();
