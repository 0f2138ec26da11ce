"""The data behind the figures of a comparison: commits per forward, calibration against static, template spread."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dllm_decode.lab.metrics import sample_of, wilson
from dllm_decode.lab.summary import ALL

#: edges of the confidence bins; most commits are near 1, so the bins are narrow there
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
PROGRESS_BINS = 10

Place = tuple[str, str, str]  # label, cache, task


@dataclass
class _Bin:
    n: int = 0
    agree: int = 0
    confidence: float = 0.0


@dataclass
class Pictures:
    """Counts over the records of a run; :func:`draw_pictures` makes them.

    Attributes:
        static: label of static decoding.
        pooled: the tasks that "all" stands for.
    """

    static: str
    pooled: frozenset[str]
    _sequences: dict[tuple[Any, ...], tuple[list[int], int]] = field(default_factory=dict)
    _commits: dict[Place, Any] = field(default_factory=lambda: defaultdict(lambda: np.zeros(PROGRESS_BINS)))
    _samples: Counter[Place] = field(default_factory=Counter)
    _bins: dict[Place, list[_Bin]] = field(default_factory=lambda: defaultdict(lambda: [_Bin() for _ in EDGES[1:]]))
    _templates: dict[Place, dict[Any, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )

    def keep_static(self, record: Mapping[str, Any]) -> None:
        """Remember what static decoding wrote; :meth:`add` compares with it."""
        self._sequences[sample_of(record)] = (record["tokens"], record["n_until_eos"])

    def add(self, record: Mapping[str, Any], mask_id: int) -> None:
        """Count one record in its own task and in all tasks together."""
        tasks = (record["task"], ALL) if record["task"] in self.pooled else (record["task"],)
        places = [(record["label"], record["cache"], task) for task in tasks]
        self._add_commits(record, mask_id, places)
        if record["label"] != self.static:
            self._add_calibration(record, mask_id, places)
        for place in places:
            found = self._templates[place][record["template"]]
            found["n"] += 1
            found["correct"] += int(record["correct"])

    def _add_commits(self, record: Mapping[str, Any], mask_id: int, places: list[Place]) -> None:
        content = record["n_content"]
        net = [sum(1 if token != mask_id else -1 for cell, token, _ in s if cell < content) for s in record["steps"]]
        if not net:
            return
        # Forward i fills the stretch from i/N to (i+1)/N of the sample's progress; a bin takes its share of each, so
        # that samples of few forwards and of many count alike everywhere.
        edges = np.linspace(0, 1, PROGRESS_BINS + 1)
        so_far = np.interp(edges, np.linspace(0, 1, len(net) + 1), np.concatenate([[0], np.cumsum(net)]) / len(net))
        for place in places:
            self._commits[place] += np.diff(so_far) * PROGRESS_BINS
            self._samples[place] += 1

    def _add_calibration(self, record: Mapping[str, Any], mask_id: int, places: list[Place]) -> None:
        reference = self._sequences.get(sample_of(record))
        if reference is None:
            return
        tokens, until = reference
        compared = max(until, record["n_until_eos"])  # the tail behind both texts would only flatter
        for step in record["steps"]:
            for cell, token, confidence in step:
                if token == mask_id or confidence == 0 or cell >= compared:  # revoked, filled, or tail
                    continue
                at = next(i for i, edge in enumerate(EDGES[1:]) if confidence < edge or i == len(EDGES) - 2)
                agree = cell < len(tokens) and tokens[cell] == token
                for place in places:
                    found = self._bins[place][at]
                    found.n += 1
                    found.agree += agree
                    found.confidence += confidence

    def steps(self) -> dict[Place, list[float]]:
        """Mean over samples of a forward's net content commits, by tenth of the sample's forwards."""
        return {place: (commits / self._samples[place]).tolist() for place, commits in self._commits.items()}

    def calibration(self) -> dict[Place, list[dict[str, float] | None]]:
        """Per confidence bin: commits, mean confidence, share that agrees with static, its Wilson interval."""
        out: dict[Place, list[dict[str, float] | None]] = {}
        for place, bins in self._bins.items():
            out[place] = []
            for one in bins:
                if not one.n:
                    out[place].append(None)
                    continue
                low, high = wilson(one.agree, one.n)
                mean = one.confidence / one.n
                share = one.agree / one.n
                out[place].append({"n": one.n, "confidence": mean, "agreement": share, "low": low, "high": high})
        return out

    def templates(self) -> dict[Place, list[dict[str, Any]]]:
        """Per template: samples, accuracy, its Wilson interval."""
        out: dict[Place, list[dict[str, Any]]] = {}
        for place, found in self._templates.items():
            out[place] = []
            for template in sorted(found, key=str):
                n, correct = found[template]["n"], found[template]["correct"]
                low, high = wilson(correct, n)
                out[place].append({"template": template, "n": n, "accuracy": correct / n, "low": low, "high": high})
        return out


def draw_pictures(
    records: Iterable[Mapping[str, Any]], masks: Mapping[str, int], static: str, pooled: Iterable[str]
) -> Pictures:
    """Count all records of a run.

    Args:
        records: in any order; those of static decoding are what the others are compared with.
        masks: id of a mask, by task.
        static: label of static decoding.
        pooled: the tasks that "all" stands for.
    """
    pictures = Pictures(static, frozenset(pooled))
    kept = list(records)
    for record in kept:
        if record["label"] == static:
            pictures.keep_static(record)
    for record in kept:
        pictures.add(record, masks[record["task"]])
    return pictures


def representatives(summary: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """One setting per family, by cache and task, for figures that would drown in all of them.

    It is the family's fastest setting within one point of static decoding, else its most accurate one.
    """
    static = summary["setting"]["static"]
    rows = {(row["label"], row["cache"], row["task"]): row for row in summary["rows"]}
    out: dict[tuple[str, str], list[str]] = {}
    for curve in summary["curves"]:
        place = curve["cache"], curve["task"]
        best = curve["best"]["1"]
        if best is None or best["label"] == static:
            # Points that decoded no content at all are in no curve.
            labels = [label for label in curve["labels"] if label != static]
            if not labels:
                continue
            label = max(labels, key=lambda x: (rows[x, *place]["accuracy"], rows[x, *place]["tpf_content"]))
        else:
            label = best["label"]
        out.setdefault(place, []).append(label)
    return out
