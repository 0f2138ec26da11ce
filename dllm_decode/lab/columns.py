"""The figures that people see: one list for the tables of ``summary.md``, of the report and of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ACCURACY, TOKENS, COST, BEHAVIOUR = "accuracy", "tokens per forward", "cost and time", "behaviour"


class Column(NamedTuple):
    """One figure of the summary.

    Attributes:
        key: its name there; where ``KEY_low`` and ``KEY_high`` are there too, tables show them beside it.
        name: heading, with a line break where it may have one. ``kind``: format, as in ``assets/table.js``.
        low: whether low is good. ``group``: of the report's columns. ``help``: what it is.
    """

    key: str
    name: str
    kind: str
    low: bool
    group: str
    help: str


#: the report's columns, in order
COLUMNS = tuple(
    Column(*fields)
    for fields in (
        ("accuracy", "accuracy %", "percent", False, ACCURACY, "right answers, cut at the end token; Wilson interval"),
        ("difference", "vs static", "signed", False, ACCURACY, "points to static decoding of the same samples"),
        ("mcnemar_p", "p", "p", True, ACCURACY, "exact two-sided McNemar test of that difference"),
        ("n", "samples", "whole", False, ACCURACY, "number of samples"),
        ("tpf_content", "content TPF", "two", False, TOKENS, "tokens before the end token per forward: ratio of sums"),
        ("tpf_until_eos", "TPF\nuntil EOS", "two", False, TOKENS, "with the end token"),
        ("tpf_canvas", "TPF\ncanvas", "two", False, TOKENS, "every cell, the tail behind the text too: flatters"),
        ("tpf_content_mean", "TPF\nmean", "two", False, TOKENS, "mean over samples of content tokens per forward"),
        ("tpf_without_tail", "TPF\nno tail", "two", False, TOKENS, "per forward that decided some content"),
        ("nfe", "NFE", "one", True, TOKENS, "mean forwards per sample"),
        ("nfe_content", "NFE\nno tail", "one", True, TOKENS, "of them, those that decided some content"),
        ("row_tpf", "row\nTPF", "two", False, COST, "content tokens per forwarded row; drafts count as rows"),
        ("token_efficiency", "token\nefficiency", "four", False, COST, "content tokens per forwarded token"),
        ("full_forwards", "full\nforwards", "one", True, COST, "forwards per sample over the whole row"),
        ("speedup", "speed-up", "two", False, COST, "NFE of static decoding over NFE"),
        ("qps", "QPS", "two", False, COST, "speed-up x (accuracy / accuracy of static)^4"),
        ("tokens_per_s", "tokens/s", "whole", False, COST, "content tokens per second of one process, as batched"),
        ("latency_p50", "latency\np50", "three", True, COST, "median seconds until a sample's batch was done"),
        ("latency_p90", "latency\np90", "three", True, COST, "90th percentile of it"),
        ("identity", "identity\n%", "percent", False, BEHAVIOUR, "samples with exactly static decoding's text"),
        ("kendall", "tau", "two", False, BEHAVIOUR, "Kendall's, position against time of commit; 1 is left to right"),
        ("spearman", "rho", "two", False, BEHAVIOUR, "Spearman's, likewise"),
        ("revokes", "revokes", "two", True, BEHAVIOUR, "cells returned to mask, per sample"),
        ("early_exits", "early\nexits %", "percent", True, BEHAVIOUR, "stopped before all content was decided"),
        ("strict", "strict\n%", "percent", False, BEHAVIOUR, "right, and nothing but end tokens behind the text"),
        ("template_spread", "spread", "percent", True, BEHAVIOUR, "points between the best and the worst wording"),
    )
)
INTERVALS = ("accuracy", "difference", "tpf_content")
PAIRED = ("difference", "difference_low", "difference_high", "mcnemar_p")  # of static with itself: nothing to say
DIGITS = {"whole": 0, "one": 1, "two": 2, "three": 3, "four": 4, "p": 3}
BY_KEY = {column.key: column for column in COLUMNS}
NOTES = "\n".join(f"- {' '.join(column.name.split())}: {column.help}." for column in COLUMNS)


def number(value: Any, digits: int = 2) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: Any, sign: str = "") -> str:
    """A share in per cent; ``sign="+"`` always shows one."""
    return "–" if value is None else f"{100 * value:{sign}.1f}"


def shown(row: Mapping[str, Any], key: str) -> str:
    """A figure of a row of the summary as text, with its interval if it has one."""
    column = BY_KEY[key]
    if key in PAIRED and row.get("kind") == "static":
        return "–"

    def one(value: Any, sign: str = "") -> str:
        return number(value, DIGITS[column.kind]) if column.kind in DIGITS else percent(value, sign)

    text = one(row[key], "+" if column.kind == "signed" else "")
    return f"{text} [{one(row[key + '_low'])}, {one(row[key + '_high'])}]" if key in INTERVALS else text
