"""``report.html``: one page with all figures, tables and replays of a comparison, complete in itself."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.files import parse_json
from dllm_decode.lab.columns import percent
from dllm_decode.lab.metrics import wilson
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
        found = dict(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DllmError(f"cannot read {str(path)!r}; delete it, and it is made anew.") from error
    return found


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
    """The outcome in a few sentences: what is fastest, what it cannot be told from, and how sure that is."""
    rows = [row for row in summary["rows"] if row["task"] == ALL and row["tpf_content"] is not None]
    static = {row["cache"]: row for row in rows if row["kind"] == "static"}
    allowed = [
        row
        for row in rows
        if row["accuracy"] >= static[row["cache"]]["accuracy"] - 0.01 - 1e-12
        and row["tpf_content"] > static[row["cache"]]["tpf_content"]
    ]
    if not allowed:
        return "No setting is faster than static decoding at no more than one point of loss over all tasks."
    best = max(allowed, key=lambda row: (row["tpf_content"], row["accuracy"]))
    base, right = static[best["cache"]], f"{100 * best['accuracy']:.1f} % accuracy"
    ties = [row for row in allowed if (row["tpf_content"], row["accuracy"]) == (best["tpf_content"], best["accuracy"])]
    names = " and ".join(f"{row['label']} (cache {row['cache']})" for row in ties)
    out = [
        f"At no more than one point of loss over all tasks, {names} "
        f"{'is' if len(ties) == 1 else 'tie as'} the fastest: {best['tpf_content']:.2f} content tokens per forward"
        f"{_span(best)} against {base['tpf_content']:.2f} of static decoding, at {right} "
        f"against {100 * base['accuracy']:.1f} % ({_loss(best)})."
    ]
    near = []
    if best["tpf_content_low"] is not None:  # one problem has no interval
        near = [row for row in allowed if row not in ties and row["tpf_content_high"] >= best["tpf_content_low"]]
    if near:
        more = f" and {len(near) - 3} more" if len(near) > 3 else ""
        near.sort(key=lambda row: -row["tpf_content"])
        out.append(
            f"Its interval overlaps that of {', '.join(row['label'] for row in near[:3])}{more}: among them this run "
            "names no winner."
        )
    return " ".join(out)


def _span(row: Mapping[str, Any]) -> str:
    low, high = row["tpf_content_low"], row["tpf_content_high"]
    return "" if low is None else f" (95 %: {low:.2f} to {high:.2f})"


def _loss(row: Mapping[str, Any]) -> str:
    """The difference to static decoding; where no answer differs, what that many samples can rule out."""
    if not row["gained"] and not row["lost"]:
        most = 100 * wilson(0, row["n"])[1]
        return (
            f"none of the {row['n']} answers turned right or wrong, which leaves up to {most:.1f} points open at 95 %"
        )
    points = [percent(row[f"difference{end}"], "+").replace("-", "−") for end in ("", "_low", "_high")]
    unsure = ", so a larger loss is not ruled out" if row["difference_low"] < -0.01 else ""
    return f"difference {points[0]} points, 95 %: {points[1]} to {points[2]}{unsure}; {row['n']} samples"
