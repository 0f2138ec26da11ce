"""The figures as Markdown and CSV; ``summary.json`` holds the same numbers unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.files import write_whole
from dllm_decode.lab.columns import BY_KEY, NOTES, number, percent, shown
from dllm_decode.lab.summary import ALL, write_summary

Row = Mapping[str, Any]

QUALITY = (
    "accuracy", "difference", "mcnemar_p", "tpf_content", "tpf_content_mean", "tpf_without_tail", "tpf_until_eos",
    "tpf_canvas", "nfe", "nfe_content", "speedup", "qps",
)  # fmt: skip
COST = (
    "row_tpf", "token_efficiency", "full_forwards", "tokens_per_s", "latency_p50", "latency_p90", "identity",
    "kendall", "spearman", "revokes", "early_exits", "strict", "template_spread",
)  # fmt: skip


def table(keys: Sequence[str], rows: Iterable[Row]) -> str:
    """A Markdown table of some figures, one line per policy."""
    head = [" ".join(BY_KEY[key].name.split()) for key in keys]
    return _grid(["policy", *head], [[f"`{row['label']}`", *(shown(row, key) for key in keys)] for row in rows])


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def markdown(summary: Mapping[str, Any]) -> str:
    """The whole summary as one Markdown document."""
    setting = summary["setting"]
    out = [f"# {setting['model']}: {len(setting['policies'])} policies compared\n\n{about(setting)}\n"]
    out += [f"\n{sentence}\n" for sentence in left_out(setting)]
    tasks = setting["tasks"]
    for cache in setting["caches"]:
        here = [row for row in summary["rows"] if row["cache"] == cache]
        everywhere = [row for row in here if row["task"] == ALL]
        out.append(
            f"\n## Cache {cache}: all tasks together\n\n{table(QUALITY, everywhere)}\n{table(COST, everywhere)}"
        )
        out.append(f"\n## Cache {cache}: accuracy % @ content TPF by task\n\n{by_task(here, tasks)}")
        out.append(f"\n## Cache {cache}: curves\n\n{curves(summary, cache)}")
        out.append(f"\n## Cache {cache}: bounds, accuracy % @ content TPF\n\n{bounds(summary, cache, [ALL, *tasks])}")
    if summary["information"]:
        out.append(f"\n## Information-theoretic bound of the oracles\n\n{information(summary['information'])}")
    return "".join(out) + f"\n## How to read this\n\n{NOTES}\n"


def left_out(setting: Mapping[str, Any]) -> list[str]:
    """One sentence per cache and reason for which policies do not run over it."""
    found: dict[tuple[str, str], list[str]] = {}
    for point in setting.get("left_out", ()):
        found.setdefault((point["cache"], point["why"]), []).append(f"`{point['label']}`")
    return [f"Left out: {', '.join(labels)} with cache {cache}, {why}" for (cache, why), labels in found.items()]


def facts(setting: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, by name."""
    config = next(iter(setting["config"].values()))
    block = config["block_length"]
    shown = [
        ("model", str(setting["model"])),
        ("weights", setting.get("model_revision") or "not on disk"),
        ("device", " ".join(filter(None, (setting.get("device"), setting.get("dtype"))))),
        ("machine", where(setting)),
        ("samples", f"{setting['samples']} per task and seed, {setting['split']} split"),
        ("seeds", _list(setting["seeds"])),
        ("wordings", "one drawn per problem" if setting["templates"] == "mixed" else _list(setting["templates"])),
        ("canvas", "the task's" if setting["canvas"] == "task" else "near the answer's length"),
        ("blocks", "one" if block is None else f"{block} cells"),
        ("temperature", f"{config['temperature']:g}"),
        ("rows together", str(setting["batch_size"])),
        ("left out", _list(f"{x['label']} with cache {x['cache']}" for x in setting.get("left_out", ()))),
        *((name, str(number)) for name, number in setting["versions"].items()),
        ("date", str(setting.get("date", "no date"))),
    ]
    return [(name, value) for name, value in shown if value]


def about(setting: Mapping[str, Any]) -> str:
    """The same as one sentence; what was left out has sentences of its own."""
    said = "; ".join(f"{name} {value}" for name, value in facts(setting) if name != "left out")
    return f"{said[:1].upper()}{said[1:]}."


def where(setting: Mapping[str, Any]) -> str:
    """The machine, and how much of it was used."""
    processes, threads = setting.get("processes", 1), setting.get("threads")
    used = [str(setting.get("machine", setting["device"]))]
    if setting["device"] == "cpu":
        used += [f"{processes} processes"] if processes > 1 else []
        used += [f"{threads} thread{'s' if threads > 1 else ''} each"] if threads else []
    return ", ".join(used)


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _at(row: Row) -> str:
    return f"{percent(row['accuracy'])} @ {number(row['tpf_content'])}"


def by_task(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Accuracy @ content TPF of every policy on every task, of one cache's rows."""
    by = {(row["label"], row["task"]): row for row in rows}
    labels = dict.fromkeys(row["label"] for row in rows)
    return _grid(["policy", *tasks], [[f"`{x}`", *(_at(by[x, task]) for task in tasks)] for x in labels])


def curves(summary: Mapping[str, Any], cache: str, tasks: Iterable[str] | None = None) -> str:
    """AUP and the best speeds at 0, 1 and 2 points of loss by family, on all or some tasks."""
    body = []
    for one in summary["curves"]:
        if one["cache"] == cache and (tasks is None or one["task"] in tasks):
            best = [f"{number(b['tpf_content'])} (`{b['label']}`)" for b in one["best"].values()]
            body.append([f"`{one['family']}`", one["task"], number(one["aup"], 1), number(one["y_max"], 1), *best])
    head = ["family", "task", "AUP", "y_max %", *(f"best TPF, {n} points lost" for n in (0, 1, 2))]
    return _grid(head, body) if body else "No policy but static decoding was run.\n"


def bounds(summary: Mapping[str, Any], cache: str, tasks: Sequence[str]) -> str:
    """Accuracy @ content TPF of what could be had, by task."""
    lines: dict[str, dict[str, str]] = {}
    for bound in summary["bounds"]:
        if bound["cache"] == cache:
            of = f" of `{bound['family']}`" if bound["family"] else " of all policies"
            name = bound["name"] + (of if bound["name"].startswith("per-sample") else "")
            lines.setdefault(name, {})[bound["task"]] = _at(bound)
    return _grid(["bound", *tasks], [[name, *(found.get(t, "–") for t in tasks)] for name, found in lines.items()])


def information(rows: Sequence[Row]) -> str:
    """L_T of the oracles by number of forwards."""
    body = [
        [r["task"], str(r["steps"]), number(r["tpf_content"]), number(r["bits"], 4), percent(r["p_valid"])]
        + [_list(r["split"]), "all" if r["exact"] else "left to right"]
        for r in rows
    ]
    head = ["oracle", "T", "TPF", "L_T bits", "2^-L_T %", "best split", "among splits"]
    return _grid(head, body) + (
        "\nL_T holds for splits fixed beforehand; a policy that chooses cells by what it sees can lose less "
        "(ParallelBench, app. A.3).\n"
    )


def csv_text(summary: Mapping[str, Any]) -> str:
    """Every row, curve, bound and information bound as one line each; ``kind`` tells them apart."""
    lines: list[dict[str, Any]] = [dict(row) for row in (*summary["rows"], *summary["bounds"])]
    for one in summary["curves"]:
        line = {k: v for k, v in one.items() if k != "best"} | {"kind": "curve"}
        for loss, found in one["best"].items():
            line |= {f"best_tpf_at_{loss}": found["tpf_content"], f"best_label_at_{loss}": found["label"]}
        lines.append(line)
    lines += [{**row, "kind": "information"} for row in summary["information"]]
    names = list(dict.fromkeys(["kind", *(name for line in lines for name in line)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in line.items()})
    return out.getvalue()


def write_tables(folder: str | Path, summary: dict[str, Any]) -> list[Path]:
    """Write ``summary.json``, ``summary.csv`` and ``summary.md``."""
    folder = Path(folder)
    write_summary(folder, summary)
    write_whole(folder / "summary.csv", csv_text(summary))
    write_whole(folder / "summary.md", markdown(summary))
    return [folder / f"summary.{kind}" for kind in ("json", "csv", "md")]
