"""``docs/which-policy.md``: which policy to use, by task, prompt, batch, cache and machine, from what was measured.

    python -m scripts.which_policy               # times this machine (some minutes, idle), writes the page
    python -m scripts.which_policy --no-clock    # the page alone; timings stay as ``which-policy.json`` has them

Tasks come from the records of ``scripts.policy_table``, papers from ``headlines.json``, the GPU from the tables of
``performance.md``.  ``which-policy.json`` keeps the figures: what no run is there for stays as it was measured last.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from dllm_decode.config import CACHES, GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import wilson
from dllm_decode.lab.points import STATIC
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.setting import EGP, machine, read_setting
from dllm_decode.models import load_model
from dllm_decode.tasks import few_shot, group, samples
from scripts.docs_page import markdown_table, put, section

DROP = 1.0  #: points that a recommended policy may lose to static decoding
NEAR = 0.98  #: of the fastest: among those the shortest to write is recommended

#: kind -> its tasks; a kind is asked of the run that holds all of them
KINDS: dict[str, list[str]] = {
    "one right token per cell": ["copy", "reverse", "sort", "replace_index", "kv_json", "add"],
    "cells that exclude or settle each other": ["replace_random", "shuffle", "choose"],
    "worked steps": ["chain", "word", "lines"],
    "grids": ["latin4", "sudoku4"],
    "all fourteen": group("all"),
    "long answers": group("long"),
}
TIMED = ("threshold", "contentfirst+doubtexit:stale=true", "freedave:step=(contentfirst),drafts=4")
BATCHES = (1, 8, 32)
PROMPTS = {"short prompt": 0, "long prompt, 150 tokens and more": 150}  #: least tokens of solved examples
TASK, BLOCK, CELLS, SEED = "lines", 16, 96, 7
SECONDS = 18.0  #: of every prompt and batch, at least a batch per setting

Pick = dict[str, Any]


def picks(records: Sequence[Record], kinds: dict[str, list[str]]) -> dict[str, dict[str, Pick]]:
    """By kind the policy to use where rows cost (``"rows"``) and where they are nearly free (``"forwards"``).

    Policies that lack one of the kind's problems, and the oracle, are not looked at.
    """
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)
    policies = {}
    for record in records:
        policies[record["label"]] = record["policy"]
        cell = sums[record["label"], record["task"]]
        for at, name in enumerate(("correct", "n_content", "nfe", "rows_forwarded")):
            cell[at] += record[name]
        cell[4] += 1
    policies.pop(EGP.label, None)
    out: dict[str, dict[str, Pick]] = {}
    for kind, tasks in kinds.items():
        total = {
            label: [sum(sums[label, task][at] for task in tasks) for at in range(5)]
            for label in policies
            if all(sums[label, task][4] == sums[STATIC.label, task][4] > 0 for task in tasks)
        }
        if not total:
            continue
        right = total[STATIC.label][0]
        safe = {k: v for k, v in total.items() if 100 * (right - v[0]) <= DROP * v[4] + 1e-9}
        out[kind] = {}
        for name, at in (("rows", 3), ("forwards", 2)):
            fastest = max(v[1] / v[at] for v in safe.values())
            near = [k for k, v in safe.items() if v[1] / v[at] >= NEAR * fastest]
            best = min(near, key=lambda label: (len(policies[label]), label))
            ok, content, nfe, rows, count = total[best]
            figures = {"per forward": content / nfe, "per row": content / rows, "points": 100 * (ok - right) / count}
            out[kind][name] = {"policy": policies[best], "accuracy": 100 * ok / count, **figures}
    return out


def from_run(folder: Path) -> dict[str, dict[str, Pick]]:
    """What a run of ``policy_table`` says of the kinds that it holds, each with the command that gives it again."""
    setting = read_setting(folder)
    found = picks(read_records(folder), {k: v for k, v in KINDS.items() if set(v) <= set(setting["tasks"])})
    block = next(iter(setting["config"].values()))["block_length"]
    model = Path(setting["model"]).name
    for kind, pair in found.items():
        tasks = next((name for name in ("all", "long") if KINDS[kind] == group(name)), ",".join(KINDS[kind]))
        how = f"--model {model} --tasks {tasks} --samples {setting['samples']} --block-length {block}"
        for pick in pair.values():
            pick["cache"] = setting["caches"][0]
            pick["command"] = f'dllm-decode evaluate {how} --cache {pick["cache"]} --policy "{pick["policy"]}"'
    return found


def clock(model: DenoisingModel, seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Content tokens per second by ``"prompt | batch"``, then by ``"policy | cache"``; settings take turns."""
    assert model.tokenizer is not None
    out: dict[str, dict[str, float]] = {}
    config = GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK)
    drawn = samples(TASK, "test", max(BATCHES), SEED)
    for prompt, least in PROMPTS.items():
        asked = [few_shot(sample, min_tokens=least) if least else sample.prompt for sample in drawn]
        texts = [model.tokenizer.encode_prompt(messages) for messages in asked]
        for batch in BATCHES:
            made = {
                f"{policy} | {cache}": DiffusionSampler(model, policy, cache, config)
                for policy in TIMED
                for cache in CACHES[:3]
            }
            spent, tokens = dict.fromkeys(made, 0.0), dict.fromkeys(made, 0)
            next(iter(made.values())).generate(texts[:batch])  # warm-up
            begun, at = perf_counter(), 0
            while at == 0 or perf_counter() - begun < seconds:
                rows = [texts[(at + i) % len(texts)] for i in range(batch)]
                at += batch
                for name, sampler in made.items():
                    result = sampler.generate(rows)
                    spent[name] += result.seconds
                    tokens[name] += sum(result.content_tokens)
            out[f"{prompt} | {batch}"] = {name: tokens[name] / spent[name] for name in made}
    return out


def task_table(found: dict[str, dict[str, Pick]]) -> list[str]:
    """A row per kind."""
    body = []
    for kind, tasks in KINDS.items():
        names = {"all fourteen": [], "long answers": ["`--tasks long`"]}.get(kind, tasks)
        caches = {pick["cache"] for pick in found.get(kind, {}).values()} - {"none"}
        notes = ", ".join([*names, *(f"{cache} cache" for cache in caches)])
        row = [f"**{kind}**" + (f" ({notes})" if notes else "")]
        for name, unit in (("rows", "per row"), ("forwards", "per forward")):
            pick = found.get(kind, {}).get(name)
            row.append(
                f"`{pick['policy']}`: {pick[unit]:.2f} {unit}, {pick['accuracy']:.1f} % ({pick['points']:+.1f} points)"
                if pick
                else "not measured"
            )
        body.append(row)
    head = ("task", "CPU, or many rows: every row costs", "GPU with few rows: further rows are nearly free")
    return markdown_table(head, body)


def commands(found: dict[str, dict[str, Pick]]) -> list[str]:
    """The commands of the table, each once."""
    lines = [pick["command"] for pair in found.values() for pick in pair.values()]
    return ["```console", *(f"$ {line}" for line in dict.fromkeys(lines)), "```"] if lines else []


def clock_table(timed: dict[str, dict[str, float]]) -> list[str]:
    """By prompt and batch the fastest policy over each cache, the fastest of the row in bold."""
    body = []
    for place, speeds in timed.items():
        row = place.split(" | ")
        best = max(speeds, key=speeds.__getitem__)
        for cache in CACHES[:3]:
            name = max((n for n in speeds if n.endswith(f"| {cache}")), key=speeds.__getitem__)
            text = f"`{name.partition(' | ')[0]}` {speeds[name]:.0f}"
            row.append(f"**{text}**" if name == best else text)
        body.append(row)
    return markdown_table(("prompt", "rows together", "no cache", "prefix cache", "dual cache"), body)


def of_gpu(page: Path) -> list[str]:
    """The fastest policy of the GPU's whole runs, from their table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section(page, "gpu whole runs")]
    rows = [row for row in rows if len(row) > 4 and row[2].isdigit()]
    if not rows:
        return ["- **GPU**: not measured."]
    mine = [row for row in rows if row[0] == rows[0][0] and row[2] == rows[0][2]]
    best = max(mine, key=lambda row: float(row[4]))
    others = ", ".join(f"`{row[1]}` {row[4]}" for row in mine if row is not best)
    device = next((line for line in section(page, "gpu whole runs") if line and not line.startswith("|")), "")
    where = f"{best[0]}, prompt 1000, 256 cells, dual cache; {device.rstrip('.')}"
    return [
        f"- **GPU, {best[2]} row** ({where}): `{best[1]}`, {best[4]} tokens per second ({others}). Random "
        "weights: policies differ in cost alone, not in forwards. "
        "`python -m scripts.bench.whole_runs --docs docs/performance.md`"
    ]


def of_papers(file: Path) -> list[str]:
    """The paper's system with the largest fair gain of those not shown to be right less often."""
    if not file.exists():
        return ["- **The papers' systems**: not measured."]
    chains = json.loads(file.read_text(encoding="utf-8"))
    ways = {name: (runs["it stops"], runs["with the policy"]) for name, runs in chains.items()}
    ends = {name: [wilson(run["right"], run["count"]) for run in pair] for name, pair in ways.items()}
    gain = {
        name: old["seconds"] / new["seconds"]
        for name, (old, new) in ways.items()
        if ends[name][1][1] >= ends[name][0][0]
    }
    if not gain:
        return ["- **The papers' systems**: all are right less often than a static baseline that stops."]
    best = max(gain, key=gain.__getitem__)
    old, new = (100 * run["right"] / run["count"] for run in ways[best])
    return [
        f"- **Of the papers' systems** not shown to be right less often, without the tail, {best} gains most: "
        f"{gain[best]:.1f} times as fast as a static baseline that stops, {new:.1f} % right against {old:.1f} %. "
        "`python -m scripts.headlines --check`; [headlines.md](headlines.md)"
    ]


def main(
    page: Annotated[Path, typer.Option(help="The page; its figures lie beside it.")] = Path("docs/which-policy.md"),
    runs: Annotated[list[Path] | None, typer.Option(help="Run folders of policy_table; may be repeated.")] = None,
    clocked: Annotated[bool, typer.Option("--clock/--no-clock", help="Time this machine.")] = True,
    seconds: Annotated[float, typer.Option(min=0, help="Of timing, per prompt and batch.")] = SECONDS,
) -> None:
    """Gather what was measured and write the page."""
    kept = page.with_suffix(".json")
    data: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for folder in runs or [Path(f"runs/policies-{model}/test") for model in ("tiny", "tiny-long")]:
        try:
            data["tasks"] = {**data.get("tasks", {}), **from_run(folder)}
        except DllmError as error:
            typer.echo(f"{folder}: {error}", err=True)
    if clocked:
        about = f"{machine()}, {torch.get_num_threads()} threads, {date.today().isoformat()}"
        data["clock"] = {"about": about, "speeds": clock(load_model("tiny"), seconds)}
    write_whole(kept, json.dumps(data, indent=1) + "\n")
    found, timed = data.get("tasks", {}), data.get("clock")
    put(page, "by task", [*task_table(found), "", *commands(found)])
    put(page, "by batch", [f"{timed['about']}.", "", *clock_table(timed["speeds"])] if timed else ["Not measured."])
    docs = page.parent
    put(page, "by machine", [*of_gpu(docs / "performance.md"), *of_papers(docs / "headlines.json")])


if __name__ == "__main__":
    typer.run(main)
