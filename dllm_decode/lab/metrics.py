"""Figures of a set of samples. Every token count and every ratio says what it counts; nothing is averaged twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Records = Sequence[Mapping[str, Any]]
Figures = dict[str, Any]
Orders = Mapping[str, tuple[float | None, float | None]]

RESAMPLES = 2000
QPS_GAMMA = 4.0


def figures(records: Records, reference: Records, orders: Orders | None = None) -> Figures:
    """All figures of one policy on one set of samples.

    Args:
        records: its samples, at least one.
        reference: static decoding of the same samples, in the same order.
        orders: by the records' keys what :func:`arness` says, if it is known.

    Returns:
        Shares are from 0 to 1, times in seconds; None where a figure is not defined.
    """
    n = len(records)
    correct = _column(records, "correct")
    content, nfe = _column(records, "n_content"), _column(records, "nfe")
    wall = _column(records, "wall_s")
    right = int(correct.sum())
    low, high = wilson(right, n)
    accuracy, baseline = right / n, float(_column(reference, "correct").mean())
    speedup = _ratio(_column(reference, "nfe").sum(), nfe.sum())
    # records of earlier versions say how many rows shared a batch, which ended together
    waits = [record.get("latency_s", record["wall_s"] * record["batch"]) for record in records]
    latency = np.quantile(np.array(waits), [0.5, 0.9])
    tpf_low, tpf_high = ratio_interval(content, nfe, _problems(records))
    order = [arness(record) if orders is None else orders[record["key"]] for record in records]
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "strict": float((correct * _column(records, "strict")).mean()),
        **paired(records, reference),
        "tpf_content": _ratio(content.sum(), nfe.sum()),
        "tpf_content_low": tpf_low,
        "tpf_content_high": tpf_high,
        "tpf_content_mean": float((content / nfe).mean()),
        "tpf_until_eos": _ratio(_column(records, "n_until_eos").sum(), nfe.sum()),
        "tpf_without_tail": _ratio(content.sum(), _column(records, "nfe_content").sum()),
        "tpf_canvas": _ratio(_column(records, "n_canvas").sum(), nfe.sum()),
        "row_tpf": _ratio(content.sum(), _column(records, "rows_forwarded").sum()),
        "token_efficiency": _ratio(content.sum(), _column(records, "tokens_forwarded").sum()),
        "nfe": float(nfe.mean()),
        "nfe_content": float(_column(records, "nfe_content").mean()),
        "full_forwards": float(_column(records, "full_forwards").mean()),
        "speedup": speedup,
        "tokens_per_s": _ratio(content.sum(), wall.sum()),
        "latency_p50": float(latency[0]),
        "latency_p90": float(latency[1]),
        "qps": qps(speedup, accuracy, baseline) if speedup is not None else None,
        "identity": float(np.mean([_text(a) == _text(b) for a, b in zip(records, reference, strict=True)])),
        "kendall": _mean([tau for tau, _ in order]),
        "spearman": _mean([rho for _, rho in order]),
        "revokes": float(_column(records, "revokes").mean()),
        "early_exits": float(_column(records, "early_exit").mean()),
        **by_template(records),
    }


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, without continuity correction."""
    found = stats.binomtest(right, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def paired(records: Records, reference: Records) -> Figures:
    """The difference in accuracy to static decoding of the same samples, with bootstrap interval and exact McNemar.

    The bootstrap (percentile, over problems) resamples the wordings of a problem together, since they are not
    independent; McNemar's test counts samples.
    """
    mine, theirs = _column(records, "correct"), _column(reference, "correct")
    gained, lost = int(((mine == 1) & (theirs == 0)).sum()), int(((mine == 0) & (theirs == 1)).sum())
    low, high = ratio_interval(mine - theirs, np.ones(len(mine)), _problems(records))
    return {
        "difference": float((mine - theirs).mean()),
        "difference_low": low,
        "difference_high": high,
        "gained": gained,
        "lost": lost,
        "mcnemar_p": mcnemar(gained, lost),
    }


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: probability of a split at least this uneven, were both policies alike."""
    return float(stats.binomtest(min(gained, lost), gained + lost).pvalue) if gained + lost else 1.0


def ratio_interval(
    top: np.ndarray, bottom: np.ndarray, clusters: Sequence[Any], level: float = 0.95
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of ``sum(top) / sum(bottom)``, resampling clusters; the seed is fixed.

    Args:
        top: ``[n]``.
        bottom: ``[n]``, not all zero.
        clusters: n labels; samples with the same label are drawn together.
        level: of confidence.
    """
    _, member = np.unique([str(label) for label in clusters], return_inverse=True)
    tops, bottoms = np.bincount(member, top), np.bincount(member, bottom)
    if len(tops) < 2:
        return None, None
    found = stats.bootstrap(
        (tops, bottoms),
        lambda t, b, axis: t.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // len(tops)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def qps(speedup: float, score: float, baseline: float, gamma: float = QPS_GAMMA) -> float | None:
    """Quality-penalised speed (SchED, arXiv 2512.02892): ``speedup * (score / baseline) ** gamma``."""
    return None if baseline <= 0 else speedup * (score / baseline) ** gamma


def arness(record: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Kendall's tau-b and Spearman's rho between a cell's position and the forward of its last commit.

    1 is left to right, 0 any order, -1 right to left. Cells up to the end token count; None if one forward decided
    them all, or there is only one.
    """
    step = np.full(record["n_until_eos"], -1)
    for at, writes in enumerate(record["steps"]):
        for cell, _, _ in writes:
            if cell < len(step):  # a shortened canvas leaves commits behind its new end
                step[cell] = at  # a revoke is always followed by a later commit
    if len(step) < 2 or (step == step[0]).all():
        return None, None
    n = len(step)
    signs = np.sign(step[:, None] - step[None, :])
    concordance = np.tril(signs, -1).sum()  # over pairs (later cell, earlier cell)
    tau = concordance / np.sqrt((signs != 0).sum() / 2 * (n * (n - 1) / 2))
    ranks = signs.sum(1) / 2  # average ranks, centred
    places = np.arange(n) - (n - 1) / 2
    rho = ranks @ places / np.sqrt((ranks @ ranks) * (places @ places))
    return float(tau), float(rho)


def by_template(records: Records) -> Figures:
    """Accuracy in each wording, and the distance between the best and the worst one."""
    groups: dict[int, list[int]] = defaultdict(list)
    for record in records:
        groups[record["template"]].append(record["correct"])
    shares = {str(template): sum(right) / len(right) for template, right in sorted(groups.items())}
    spread = max(shares.values()) - min(shares.values()) if len(shares) > 1 else None
    return {"template_accuracy": shares, "template_spread": spread}


def best_per_sample(candidates: Sequence[Records]) -> list[Mapping[str, Any]]:
    """For every sample the right answer with the fewest forwards, or the cheapest wrong one: an empirical bound.

    ParallelBench (arXiv 2510.04767, app. F.2). It looks at the answers, so no policy can be expected to reach it.

    Args:
        candidates: the records of each setting, over the same samples in the same order.
    """
    return [min(options, key=lambda r: (-r["correct"], r["nfe"])) for options in zip(*candidates, strict=True)]


def sample_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two records share when they answer the same question over the same cache."""
    return tuple(record[name] for name in ("cache", "task", "template", "seed", "sample"))


def _problems(records: Records) -> list[tuple[Any, ...]]:
    return [(r["task"], r["seed"], r["sample"]) for r in records]


def _text(record: Mapping[str, Any]) -> list[int]:
    return list(record["tokens"][: record["n_until_eos"]])


def _column(records: Records, name: str) -> np.ndarray:
    return np.array([record[name] for record in records], dtype=float)


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
