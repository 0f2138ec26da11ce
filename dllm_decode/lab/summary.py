"""``summary.json``: every figure of a comparison, computed from its records alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.lab.bounds import empirical_bounds, theory
from dllm_decode.lab.curves import curve
from dllm_decode.lab.metrics import arness, figures, sample_of
from dllm_decode.lab.problems import is_oracle
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.setting import read_setting

VERSION = 1
ALL = "all"  # the pseudo-task that pools the bundled tasks


def summarise(setting: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """All figures.

    Args:
        setting: of the run.
        records: all its samples, the same ones for every policy.

    Returns:
        ``rows`` (policy, cache, task), ``curves`` (family, cache, task), ``bounds`` and ``information``; docs/lab.md
        names every field.

    Raises:
        DllmError: the run is not finished, so that policies would be compared on different samples.
    """
    static = setting["static"]
    groups: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    pooled = [task for task in setting["tasks"] if not is_oracle(task)] or setting["tasks"]
    for record in records:
        groups[record["cache"], record["task"]][record["label"]].append(record)
        if record["task"] in pooled:
            groups[record["cache"], ALL][record["label"]].append(record)
    orders = {record["key"]: arness(record) for record in records}
    left_out = {(found["label"], found["cache"]) for found in setting.get("left_out", ())}
    rows, curves, bounds = [], [], []
    for cache in setting["caches"]:
        for task in (ALL, *setting["tasks"]):
            expected = [p["label"] for p in setting["policies"] if (p["label"], cache) not in left_out]
            by_label = _aligned(groups[cache, task], static, expected, f"{task} with cache {cache}")
            place = {"cache": cache, "task": task}
            here = [
                {
                    **{name: point[name] for name in ("label", "policy", "family", "knob")},
                    **place,
                    "kind": "static" if point["label"] == static else "policy",
                    **figures(by_label[point["label"]], by_label[static], orders),
                }
                for point in setting["policies"]
                if point["label"] in by_label
            ]
            rows += here
            y_max = max(row["accuracy"] for row in here)
            families: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for row in here[1:]:
                families[row["family"]].append(row)
            for family, members in families.items():
                curves.append({"family": family, **place, **curve(members, here[0], y_max)})
            labels = {family: [row["label"] for row in members] for family, members in families.items()}
            bounds += [{**bound, **place} for bound in empirical_bounds(by_label, labels, static, orders)]
    return {
        "version": VERSION,
        "setting": setting,
        "rows": rows,
        "curves": curves,
        "bounds": bounds,
        "information": theory(setting["tasks"]),
    }


def _aligned(
    by_label: dict[str, list[Record]], static: str, expected: Sequence[str], where: str
) -> dict[str, list[Record]]:
    """The samples of every policy in the order of static decoding's."""
    order = [sample_of(record) for record in by_label.get(static, ())]
    if not order:
        raise DllmError(f"the run is not finished: there is no sample of {where}; run 'compare' again.")
    out = {}
    for label in dict.fromkeys([*expected, *by_label]):
        found = {sample_of(record): record for record in by_label.get(label, ())}
        if found.keys() != set(order):
            raise DllmError(
                f"the run is not finished: {label} has {len(found)} of {len(order)} samples of {where}; "
                "run 'compare' again."
            )
        out[label] = [found[sample] for sample in order]
    return out


def summarise_folder(folder: str | Path) -> dict[str, Any]:
    """The figures of a run folder, from its files alone."""
    return summarise(read_setting(Path(folder)), read_records(Path(folder)))


def write_summary(folder: str | Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``."""
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(Path(folder) / "summary.json", text + "\n")
