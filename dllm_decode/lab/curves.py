"""Curves of accuracy against tokens per forward, and the one-number summaries that papers make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LOSSES = (0, 1, 2)  # points of accuracy


def aup(points: Sequence[tuple[float, float]], y_max: float, alpha: float = 3.0, offset: float = 5.0) -> float:
    """Accuracy under parallelism (d3LLM): area under accuracy against TPF, weighted down where accuracy is lost.

    Points sorted by TPF; those more than ``offset`` below the first are cut (the published code refuses such curves
    instead). With ``W(y) = min(exp(-alpha (1 - y / y_max)), 1)``,
    ``AUP = rho_1 y_1 + sum_i (rho_i - rho_{i-1}) / 2 * (y_i W(y_i) + y_{i-1} W(y_{i-1}))``.

    Args:
        points: (TPF, accuracy in percent), at least one.
        y_max: best accuracy of all methods on the task, in percent; AUPs of different ``y_max`` do not compare.
        alpha: how hard lost accuracy weighs.
        offset: points of accuracy.
    """
    ordered = sorted(points)
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - offset]

    def weighed(y: float) -> float:
        return y * min(math.exp(-alpha * (1 - y / y_max)), 1.0) if y_max > 0 else 0.0

    area = kept[0][0] * kept[0][1]
    for (rho_0, y_0), (rho_1, y_1) in zip(kept, kept[1:], strict=False):
        area += (rho_1 - rho_0) / 2 * (weighed(y_0) + weighed(y_1))
    return area


def best_at_loss(
    rows: Sequence[Mapping[str, Any]], baseline: float, points: float, speed: str = "tpf_content"
) -> Mapping[str, Any] | None:
    """The row with the highest ``speed`` whose accuracy is at most ``points`` below ``baseline`` (a share)."""
    allowed = [r for r in rows if r[speed] is not None and r["accuracy"] >= baseline - points / 100 - 1e-12]
    return max(allowed, key=lambda r: (r[speed], r["accuracy"]), default=None)


def pareto(rows: Sequence[Mapping[str, Any]], speed: str = "tpf_content") -> list[Mapping[str, Any]]:
    """Rows that no other row beats in both accuracy and ``speed``, by rising speed."""
    out: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda r: (-r[speed], -r["accuracy"])):
        if not out or row["accuracy"] > out[-1]["accuracy"]:
            out.append(row)
    return out[::-1]


def curve(rows: Sequence[Mapping[str, Any]], static: Mapping[str, Any], y_max: float) -> dict[str, Any]:
    """One family's curve on one task and cache.

    It starts at static decoding, the conservative end of every policy, so that grids of different reach compare.

    Args:
        rows: the family's points.
        static: static decoding's.
        y_max: best accuracy of all rows on this task and cache, as a share.

    Returns:
        ``labels`` by rising TPF, ``aup``, ``y_max`` in percent, and ``best`` content TPF by points of loss.
    """
    every = [row for row in (static, *rows) if row["tpf_content"] is not None]
    every.sort(key=lambda r: r["tpf_content"])
    best = {}
    for loss in LOSSES:
        found = best_at_loss(every, static["accuracy"], loss)
        best[str(loss)] = found and {name: found[name] for name in ("label", "tpf_content", "accuracy")}
    coordinates = [(row["tpf_content"], 100 * row["accuracy"]) for row in every]
    return {
        "labels": [row["label"] for row in every],
        "aup": aup(coordinates, 100 * y_max) if coordinates else None,
        "y_max": 100 * y_max,
        "best": best,
    }
