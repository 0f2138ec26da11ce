"""Bounds beside every curve: what could be had, by looking at what no policy may look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dllm_decode.lab.information import information_bounds
from dllm_decode.lab.metrics import Orders, Records, best_per_sample, figures
from dllm_decode.lab.problems import is_oracle, make_oracle
from dllm_decode.lab.setting import EGP

PER_SAMPLE = "per-sample best"


def empirical_bounds(
    by_label: Mapping[str, Records],
    families: Mapping[str, Sequence[str]],
    static: str,
    orders: Orders | None = None,
) -> list[dict[str, Any]]:
    """Static decoding, EGP, and the per-sample best setting of each family and of all policies together.

    Args:
        by_label: the samples of one task and cache, in one order for all labels.
        families: labels of each family.
        static: label of static decoding.
        orders: as in :func:`~dllm_decode.lab.metrics.figures`.
    """
    reference = by_label[static]
    named: list[tuple[str, str | None, Records]] = [("static", None, reference)]
    if EGP.label in by_label:
        named.append((EGP.label, None, by_label[EGP.label]))
    for family, labels in families.items():
        if len(labels) > 1:
            named.append((PER_SAMPLE, family, best_per_sample([by_label[label] for label in labels])))
    if len(families) > 1:
        every = [by_label[label] for labels in families.values() for label in labels]
        named.append((PER_SAMPLE, None, best_per_sample([reference, *every])))
    return [
        {"name": name, "family": family, "kind": "bound", **figures(records, reference, orders)}
        for name, family, records in named
    ]


def theory(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The information-theoretic bound L_T of every oracle among the tasks, for every number of forwards."""
    rows = []
    for task in tasks:
        if is_oracle(task):
            oracle = make_oracle(task)
            for bound in information_bounds(oracle):
                rows.append(
                    {
                        "task": task,
                        "steps": bound.steps,
                        "tpf_content": oracle.length / bound.steps,
                        "bits": bound.bits,
                        "p_valid": bound.p_valid,
                        "split": list(bound.split),
                        "exact": bound.exact,
                    }
                )
    return rows
