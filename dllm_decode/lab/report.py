"""``report.html``: one page with all figures, tables and replays of a comparison, complete in itself."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.lab.columns import percent
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.report_data import ReportData
from dllm_decode.lab.setting import read_setting
from dllm_decode.lab.summary import ALL, summarise
from dllm_decode.lab.tables import facts, left_out
from dllm_decode.viewing.page import build_page, json_block, packed_block
from dllm_decode.viewing.viewer import SCRIPTS, write_page

MAX_BYTES = 10_000_000
MARGIN = 4000  # bytes for a longer footer and the replays' elements
NAME = "report.html"


def write_report(folder: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Write ``report.html`` into a run folder.

    Args:
        folder: with ``setting.json``, ``records.jsonl`` and, if there are, ``pieces.json`` and ``summary.json``.
        max_bytes: size of the page; if all replays do not fit, it keeps those of the first problems, the same ones
            for every policy, and says so. The figures always count every record.

    Returns:
        The path.

    Raises:
        DllmError: no finished run, or a page that cannot be written.
    """
    folder = Path(folder)
    setting, records = read_setting(folder), read_records(folder)
    summary = _read_json(folder / "summary.json") or summarise(setting, records)
    pieces = _read_json(folder / "pieces.json") or {}
    return write_page(build_report(setting, records, summary, pieces, max_bytes), folder / NAME)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DllmError(f"cannot read {str(path)!r}; delete it, and it is made anew.") from error
    return dict(found)


def build_report(
    setting: Mapping[str, Any],
    records: Sequence[Record],
    summary: Mapping[str, Any],
    pieces: Mapping[str, str],
    max_bytes: int = MAX_BYTES,
) -> str:
    """The page of a finished run as text; see :func:`write_report`."""
    page = ReportData(setting, records)
    data = page.figures(summary, pieces)
    texts = {
        "title": f"Decoding policies on {setting['model']}",
        "lede": lede(summary),
        "facts_html": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts(setting)
        ),
        "footer": "This page is complete in itself: it loads nothing from any network."
        + "".join(f" {sentence}" for sentence in left_out(setting)),
    }
    block = json_block("data", data)
    scripts = (*SCRIPTS, "charts.js", "samples.js", "table.js", "report.js")
    bare = len(build_page("report.html", texts, [block], scripts).encode())
    chunks, kept, problems = page.replays(max_bytes - bare - MARGIN)
    if kept < problems:
        texts["footer"] += (
            f" To stay small it holds the replays of {kept} of {problems} problems per task, the same ones for every "
            "policy; the figures count every sample."
        )
    blocks = [block, *(packed_block(f"replays-{task}", chunk) for task, chunk in enumerate(chunks))]
    return build_page("report.html", texts, blocks, scripts)


def lede(summary: Mapping[str, Any]) -> str:
    """The outcome in one or two sentences."""
    rows = {(r["label"], r["cache"]): r for r in summary["rows"] if r["task"] == ALL}
    found = [(c["best"]["1"], c["cache"]) for c in summary["curves"] if c["task"] == ALL and c["best"]["1"]]
    faster = [(best, cache) for best, cache in found if rows[best["label"], cache]["kind"] != "static"]
    if not faster:
        return "No setting is faster than static decoding at no more than one point of loss over all tasks."
    best, cache = max(faster, key=lambda pair: pair[0]["tpf_content"])
    row = rows[best["label"], cache]
    base = next(r for r in rows.values() if r["kind"] == "static" and r["cache"] == cache)
    points = [percent(row[f"difference{end}"], "+").replace("-", "−") for end in ("", "_low", "_high")]
    return (
        f"At no more than one point of loss over all tasks, {row['label']} (cache {cache}) is the fastest: "
        f"{row['tpf_content']:.2f} content tokens per forward against {base['tpf_content']:.2f} of static decoding, "
        f"at {100 * row['accuracy']:.1f} % accuracy against {100 * base['accuracy']:.1f} % "
        f"(difference {points[0]} points, 95 %: {points[1]} to {points[2]}; {row['n']} samples)."
    )
