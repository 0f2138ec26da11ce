"""The figures as Markdown and CSV; ``summary.json`` holds the same numbers unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.lab.summary import ALL, write_summary

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]

NOTES = """\
- accuracy: share of right answers in %, cut at the first end token, with its Wilson 95 % interval.
- vs static: difference in points to static decoding (one cell per forward, the surest one) of the same samples over \
the same cache, with a bootstrap 95 % interval over problems; p: exact McNemar test.
- TPF: tokens per forward, ratio of sums. content: tokens before the first end token. until EOS: with that token. \
canvas: every cell, the end tokens behind the text included, which flatters. no tail: content tokens per forward that \
decided some content. mean: mean over samples of content tokens per forward.
- row TPF: content tokens per forwarded row (drafts count). token efficiency: content tokens per forwarded token.
- NFE: forwards per sample; no tail: of them, those that decided some content. speed-up: NFE of static / NFE.
- tokens/s: content tokens per second of one process, batched. latency: seconds until the sample's batch was done.
- QPS: speed-up x (accuracy / accuracy of static)^4. identity: share of samples with static decoding's very text.
- order: Kendall's tau and Spearman's rho between position and time of commit; 1 is left to right.
- spread: points between the best and the worst wording of the prompts."""


def number(value: Any, digits: int = 2) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.1f}"


def accuracy(row: Row) -> str:
    """Accuracy with its interval."""
    return f"{percent(row['accuracy'])} [{percent(row['accuracy_low'])}, {percent(row['accuracy_high'])}]"


def difference(row: Row) -> str:
    """Points to static, with interval."""
    if row.get("kind") == "static":
        return "–"
    low, high = (number(None if x is None else 100 * x, 1) for x in (row["difference_low"], row["difference_high"]))
    return f"{100 * row['difference']:+.1f} [{low}, {high}]"


def tpf(row: Row) -> str:
    """Content TPF with its interval."""
    return f"{number(row['tpf_content'])} [{number(row['tpf_content_low'])}, {number(row['tpf_content_high'])}]"


def _plain(name: str, digits: int = 2) -> Callable[[Row], str]:
    return lambda row: number(row[name], digits)


QUALITY: tuple[Column, ...] = (
    ("policy", lambda row: f"`{row['label']}`"),
    ("accuracy %", accuracy),
    ("vs static", difference),
    ("p", _plain("mcnemar_p", 3)),
    ("content TPF", tpf),
    ("TPF mean", _plain("tpf_content_mean")),
    ("TPF no tail", _plain("tpf_without_tail")),
    ("TPF until EOS", _plain("tpf_until_eos")),
    ("TPF canvas", _plain("tpf_canvas")),
    ("NFE", _plain("nfe", 1)),
    ("NFE no tail", _plain("nfe_content", 1)),
    ("speed-up", _plain("speedup")),
    ("QPS", _plain("qps")),
)
COST: tuple[Column, ...] = (
    ("policy", lambda row: f"`{row['label']}`"),
    ("row TPF", _plain("row_tpf")),
    ("token efficiency", _plain("token_efficiency", 4)),
    ("full forwards", _plain("full_forwards", 1)),
    ("tokens/s", _plain("tokens_per_s", 0)),
    ("latency p50", _plain("latency_p50", 3)),
    ("latency p90", _plain("latency_p90", 3)),
    ("identity %", lambda row: percent(row["identity"])),
    ("tau", _plain("kendall")),
    ("rho", _plain("spearman")),
    ("revokes", _plain("revokes")),
    ("early exits %", lambda row: percent(row["early_exits"])),
    ("strict %", lambda row: percent(row["strict"])),
    ("spread", lambda row: percent(row["template_spread"])),
)


def table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """A Markdown table."""
    return _grid([name for name, _ in columns], [[show(row) for _, show in columns] for row in rows])


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
        out.append(f"\n## Cache {cache}: curves\n\n{_curves(summary['curves'], cache)}")
        out.append(
            f"\n## Cache {cache}: bounds, accuracy % @ content TPF\n\n{_bounds(summary['bounds'], cache, tasks)}"
        )
    if summary["information"]:
        out.append(f"\n## Information-theoretic bound of the oracles\n\n{information(summary['information'])}")
    return "".join(out) + f"\n## How to read this\n\n{NOTES}\n"


def left_out(setting: Mapping[str, Any]) -> list[str]:
    """One sentence per policy that does not run over one of the caches."""
    return [f"Left out: `{x['label']}` with cache {x['cache']}, {x['why']}" for x in setting.get("left_out", ())]


def about(setting: Mapping[str, Any]) -> str:
    """One sentence on what was run."""
    config = next(iter(setting["config"].values()))
    block = config["block_length"]
    wordings = "one drawn wording" if setting["templates"] == "mixed" else f"wordings {_list(setting['templates'])}"
    canvas = "the task's canvas" if setting["canvas"] == "task" else "a canvas near the answer's length"
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    return (
        f"Model `{setting['model']}` (weights {setting['model_revision'] or 'not on disk'}) on {setting['device']}, "
        f"{setting['samples']} {setting['split']} samples per task and seed, seeds {_list(setting['seeds'])}, "
        f"each in {wordings}; {canvas}, {'one block' if block is None else f'blocks of {block}'}, "
        f"temperature {config['temperature']:g}, {setting['batch_size']} rows together; {where(setting)}; {versions}; "
        f"{setting['date']}."
    )


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


def _curves(curves: Sequence[Row], cache: str) -> str:
    body = []
    for one in curves:
        if one["cache"] == cache:
            best = [f"{number(b['tpf_content'])} (`{b['label']}`)" for b in one["best"].values()]
            body.append([f"`{one['family']}`", one["task"], number(one["aup"], 1), number(one["y_max"], 1), *best])
    head = ["family", "task", "AUP", "y_max %", *(f"best TPF, {n} points lost" for n in (0, 1, 2))]
    return _grid(head, body) if body else "No policy but static decoding was run.\n"


def _bounds(bounds: Sequence[Row], cache: str, tasks: Sequence[str]) -> str:
    lines: dict[str, dict[str, str]] = {}
    for bound in bounds:
        if bound["cache"] == cache:
            of = f" of `{bound['family']}`" if bound["family"] else " of all policies"
            name = bound["name"] + (of if bound["name"].startswith("per-sample") else "")
            lines.setdefault(name, {})[bound["task"]] = _at(bound)
    columns = [ALL, *tasks]
    return _grid(["bound", *columns], [[name, *(found.get(t, "–") for t in columns)] for name, found in lines.items()])


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
    (folder / "summary.csv").write_text(csv_text(summary), encoding="utf-8")
    (folder / "summary.md").write_text(markdown(summary), encoding="utf-8")
    return [folder / f"summary.{kind}" for kind in ("json", "csv", "md")]
