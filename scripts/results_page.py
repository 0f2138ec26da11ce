"""``docs/results.md``: one comparison as a page for readers, with its findings, pictures, tables and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.lab.bounds import PER_SAMPLE
from dllm_decode.lab.columns import NOTES, percent
from dllm_decode.lab.curves import best_at_loss, pareto
from dllm_decode.lab.metrics import paired, sample_of
from dllm_decode.lab.records import Record
from dllm_decode.lab.setting import EGP
from dllm_decode.lab.summary import ALL
from dllm_decode.lab.tables import about, bounds, by_task, curves, information, left_out, table

COMMAND = "python -m scripts.compare_policies"
LOSS = 1  #: points of accuracy
SHOWN = ("accuracy", "difference", "mcnemar_p", "tpf_content", "nfe", "speedup", "row_tpf", "token_efficiency",
         "tokens_per_s", "identity", "kendall")  # fmt: skip
#: pictures of a run, by cache, with what stands under each
PICTURES = {
    "frontier": "Accuracy against content tokens per forward, all tasks. In colour: families with a setting that no "
    "other policy beats in both; bars: 95 % intervals, dashes: static, rings: settings that coincide.",
    "heat": "Families with a setting that no other policy beats: best content tokens per forward at one point of "
    "loss; accuracy of each family's fastest setting within one point, or else its most accurate one.",
    "tasks": "The same families, task by task.",
    "steps": "Content tokens committed per forward over a sample's progress.",
    "calibration": "How often a token committed by those families is the one of static decoding, by confidence.",
}


def findings(summary: Mapping[str, Any], records: Sequence[Record] = ()) -> list[str]:
    """The short answers, one sentence each.

    Args:
        summary: of the run.
        records: of the run; with them the caches are compared too.
    """
    out = []
    for cache in summary["setting"]["caches"]:
        out += _of_cache(summary, cache)
    for cache in summary["setting"]["caches"][1:]:
        if records:
            out.append(_across(summary, records, cache))
    return out


def _of_cache(summary: Mapping[str, Any], cache: str) -> list[str]:
    rows = [row for row in summary["rows"] if row["task"] == ALL and row["cache"] == cache]
    static, others = rows[0], rows[1:]
    found = best_at_loss(rows, static["accuracy"], LOSS)
    if found is None:  # nothing was decoded at all
        return []
    out = []
    if found is static:
        out.append(f"cache {cache}: nothing is faster than static decoding at {LOSS} point of loss.")
    else:
        out.append(
            f"cache {cache}: at most {LOSS} point below static, `{found['label']}` is the fastest with "
            f"{found['tpf_content']:.2f} content tokens per forward against {static['tpf_content']:.2f}, at "
            f"{percent(found['accuracy'])} % against {percent(static['accuracy'])} % "
            f"({_points(found)})."
        )
        worst = min(
            (row for row in summary["rows"] if row["cache"] == cache and row["label"] == found["label"]),
            key=lambda row: row["difference"],
        )
        if worst["difference"] < 0 and worst["task"] != ALL:
            out.append(f"cache {cache}: it loses most on {worst['task']}, {_points(worst)}.")
    front = ", ".join(
        f"`{row['label']}` ({row['tpf_content']:.2f} at {percent(row['accuracy'])} %)" for row in pareto(rows)
    )
    out.append(f"cache {cache}: no other policy beats these in both speed and accuracy: {front}.")
    same = [row for row in others if row["identity"] == 1 and row["speedup"] > 1]
    if same:
        best = max(same, key=lambda row: row["speedup"])
        out.append(
            f"cache {cache}: `{best['label']}` wrote static decoding's very text on all {best['n']} samples, in "
            f"{best['speedup']:.2f} times fewer forwards and {static['row_tpf'] / best['row_tpf']:.2f} times the "
            "forwarded rows."
        )
    bounds = {b["name"]: b for b in summary["bounds"] if (b["task"], b["cache"], b["family"]) == (ALL, cache, None)}
    said = [
        f"{words} reaches {bounds[name]['tpf_content']:.2f} content tokens per forward at "
        f"{percent(bounds[name]['accuracy'])} %"
        for name, words in ((EGP.label, "EGP"), (PER_SAMPLE, "the best policy of each sample"))
        if name in bounds
    ]
    if said:
        out.append(f"cache {cache}: of the bounds that look at the answer, {', '.join(said)}.")
    return out


def _points(row: Mapping[str, Any]) -> str:
    low, high = row["difference_low"], row["difference_high"]
    interval = "" if low is None or low == high else f", 95 % {100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * row['difference']:+.1f} points{interval}; {row['gained']} gained, {row['lost']} lost"


def _across(summary: Mapping[str, Any], records: Sequence[Record], cache: str) -> str:
    """Static decoding over this cache against the first one, on the same samples."""
    first, static = summary["setting"]["caches"][0], summary["setting"]["static"]

    def of(kind: str) -> list[Record]:
        return sorted(
            (r for r in records if (r["label"], r["cache"]) == (static, kind)), key=lambda r: sample_of(r)[1:]
        )

    rows = {(r["cache"], r["task"]): r for r in summary["rows"] if r["label"] == static}
    faster = rows[cache, ALL]["tokens_per_s"] / rows[first, ALL]["tokens_per_s"]
    tasks = summary["setting"]["tasks"]
    change = {task: rows[cache, task]["accuracy"] - rows[first, task]["accuracy"] for task in tasks}
    worst = [task for task in sorted(tasks, key=lambda t: change[t]) if change[task] < -LOSS / 100]
    lost = ", ".join(f"{task} ({100 * change[task]:+.0f})" for task in worst[:4])
    return (
        f"cache {cache} against {first}, static decoding: {faster:.1f} times the tokens per second, "
        f"{_points(paired(of(cache), of(first)))}; "
        + (f"what loses more than a point: {lost}." if lost else "no task loses more than a point.")
    )


def write_results(
    page: Path,
    folder: Path,
    summary: Mapping[str, Any],
    records: Sequence[Record],
    oracles: Mapping[str, Any] | None,
    tuned: Sequence[str] = (),
    options: str = "",
) -> None:
    """Write the page, and its pictures into a folder beside it that has its name.

    Args:
        page: Markdown file; written anew.
        folder: of the run, with ``plots/``.
        summary: of the run.
        records: of the run.
        oracles: summary of the run on the exact oracles, whose plots are in ``folder / "oracles"``.
        tuned: labels whose values were chosen here; the others are the papers', or steps over a knob.
        options: what else the command was given, with a space behind it.
    """
    setting = summary["setting"]
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    block = next(iter(setting["config"].values()))["block_length"]
    spent = sum(record["wall_s"] for record in records) / setting.get("processes", 1) / 60  # minutes
    out = [
        f"# Results: every policy on `{setting['model']}`",
        "",
        "```console",
        f"$ {COMMAND} {options}--samples {setting['samples']} --block-length {block} --docs docs/{page.name}",
        "```",
        "",
        f"The command can be stopped and given again at any time. Decoding took {spent:.1f} minutes here. "
        f"{about(setting)} Its run folder also holds every sample, all figures by task as CSV, and `report.html`, in "
        "which each sample's canvas can be replayed.",
        "",
        "## What was found",
        "",
        *(f"- {sentence}" for sentence in findings(summary, records)),
        "",
    ]
    if tuned:
        out += [
            "Rows with *tuned* have values that `python -m scripts.policy_table --tune` chose on the valid split; the "
            "others are the papers' values, or steps over a knob.",
            "",
        ]
    for sentence in left_out(setting):
        out += [sentence, ""]
    for cache in setting["caches"]:
        here = [row for row in summary["rows"] if row["cache"] == cache]
        out += [f"## Cache {cache}", ""]
        out += _picture(beside, folder, "frontier", cache)
        out += [_marked(table(SHOWN, [row for row in here if row["task"] == ALL]), tuned)]
        for name in ("heat", "tasks"):
            out += _picture(beside, folder, name, cache)
        out += [
            "Accuracy % @ content tokens per forward, by task:",
            "",
            _marked(by_task(here, setting["tasks"]), tuned),
        ]
        out += [
            "Curves, and bounds (accuracy % @ content TPF), over all tasks:",
            "",
            curves(summary, cache, [ALL]),
            bounds(summary, cache, [ALL]),
        ]
        for name in ("steps", "calibration"):
            out += _picture(beside, folder, name, cache)
    if oracles is not None:
        out += _oracle_section(beside, folder / "oracles", oracles)
    out += ["## How to read this", "", NOTES, ""]
    page.write_text("\n".join(out), encoding="utf-8")


def _marked(rows: str, tuned: Sequence[str]) -> str:
    """The table, with a word behind the policies whose values were chosen here."""
    for label in tuned:
        rows = rows.replace(f"| `{label}` |", f"| `{label}` *tuned* |")
    return rows


def _picture(beside: Path, folder: Path, name: str, cache: str, text: str = "") -> list[str]:
    """Copy a picture beside the page; the lines that show it."""
    from PIL import Image  # matplotlib brings it

    source = folder / "plots" / f"{name}-{cache}.png"
    target = beside / (f"{folder.name}-{source.name}" if folder.name == "oracles" else source.name)
    with Image.open(source) as picture:  # few colours are enough, and a fifth of the bytes
        picture.convert("RGB").quantize(128).save(target, optimize=True)
    text = text or PICTURES[name]
    return [f"![{text}]({beside.name}/{target.name})", "", f"*{text}*", ""]


def _oracle_section(beside: Path, folder: Path, summary: Mapping[str, Any]) -> list[str]:
    setting = summary["setting"]
    (cache,) = setting["caches"]
    here = [row for row in summary["rows"] if row["cache"] == cache]
    temperature = next(iter(setting["config"].values()))["temperature"]
    return [
        "## Exact oracles",
        "",
        f"The model is exact here, so what goes wrong is the policy's doing: {setting['samples']} draws per oracle at "
        f"temperature {temperature:g}, one block. L_T is the least information that T forwards lose when their cells "
        "are chosen beforehand (ParallelBench, arXiv 2510.04767); a policy that chooses them by what it sees can lose "
        "less.",
        "",
        *_picture(beside, folder, "tasks", cache, "Valid outputs against tokens per forward; ticks: 2^-L_T."),
        "Valid outputs % @ tokens per forward:",
        "",
        by_task(here, setting["tasks"]),
        "The bound:",
        "",
        information(summary["information"]),
    ]
