"""Successive halving: many candidates on few samples, few candidates on many (Jamieson and Talwalkar, 2016)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dllm_decode.lab.metrics import Records
from dllm_decode.lab.points import STATIC
from dllm_decode.lab.records import Record

ETA = 3  # candidates shrink by this factor per rung; samples grow by it, or by less if there are few
FINALISTS = 4
FEWEST = 10  # samples per task and seed in the first rung


class Speed(NamedTuple):
    """What a candidate is fast in.

    Attributes:
        words: with its unit. ``column``: its name in a summary. ``cost``: the record's field that content tokens are
            divided by.
    """

    words: str
    column: str
    cost: str


SPEEDS = {
    "forward": Speed("content tokens per forward", "tpf_content", "nfe"),
    "row": Speed("content tokens per forwarded row", "row_tpf", "rows_forwarded"),  # drafts are rows
    "second": Speed("content tokens per second", "tokens_per_s", "wall_s"),
}


@dataclass(frozen=True)
class Rung:
    """One round: candidates ``keep`` of which survive are decoded on samples ``first`` to ``last``."""

    first: int
    last: int
    keep: int


def rungs(candidates: int, samples: int, fewest: int = FEWEST) -> list[Rung]:
    """The rounds for so many candidates, from ``fewest`` samples per task and seed to ``samples``."""
    rounds = math.ceil(math.log(candidates / FINALISTS, ETA)) + 1 if candidates > FINALISTS else 1
    least = max(min(fewest, samples), samples / ETA ** (rounds - 1))
    growth = (samples / least) ** (1 / max(1, rounds - 1))  # ETA, or less: in equal ratios
    ends = [round(least * growth**r) for r in range(rounds - 1)] + [samples]
    out, first, left = [], 0, candidates
    for last in ends:
        if last > first:
            left = min(left, max(FINALISTS, math.ceil(left / ETA)))
            out.append(Rung(first, last, left))
            first = last
    return out


@dataclass(frozen=True)
class Score:
    """How a candidate did so far.

    Attributes:
        label: which. ``speed``: content tokens per forward, or per what else was asked for. ``accuracy``: share.
        difference: to static decoding, a share.
        error: standard error of ``difference`` over problems.
    """

    label: str
    speed: float
    accuracy: float
    difference: float
    error: float

    def within(self, max_drop: float, slack: float) -> bool:
        """Whether it loses at most ``max_drop`` points; ``slack`` standard errors to its favour (or against it)."""
        return self.difference + slack * self.error >= -max_drop / 100 - 1e-12


def score(label: str, records: Records, reference: Records, per: str = "forward") -> Score:
    """Score a candidate against static decoding of the same samples, in the same order; ``per``: of `SPEEDS`."""
    n = len(records)
    changes = [a["correct"] - b["correct"] for a, b in zip(records, reference, strict=True)]
    mean = sum(changes) / n
    # One imagined loss keeps the error above zero: ten samples that agree prove little.
    variance = (sum((c - mean) ** 2 for c in changes) + 1) / n
    tokens, cost = sum(r["n_content"] for r in records), sum(r[SPEEDS[per].cost] for r in records)
    return Score(
        label=label,
        speed=tokens / cost if cost else 0.0,
        accuracy=sum(r["correct"] for r in records) / n,
        difference=mean,
        error=math.sqrt(variance / n),
    )


def survivors(scores: Sequence[Score], keep: int, max_drop: float) -> list[str]:
    """The labels that go on: the fastest of those that may still be good enough, then the least bad.

    Half of the places are kept for the surest, those whose loss is least a standard error further down, and of equals
    for the faster: the fastest that may be good enough are those on the very limit, and of them alone none may be left
    to choose.
    """
    ranked = sorted(
        scores,
        key=lambda s: (-s.speed, -s.accuracy, s.label) if s.within(max_drop, 1) else (0.0, -s.difference, s.label),
    )  # those within the limit have negative first keys, so they come first
    surest = sorted(scores, key=lambda s: (s.error - s.difference, -s.speed, s.label))
    safe = {s.label for s in surest[: keep // 2]}
    hopeful = [s.label for s in ranked if s.label not in safe][: keep - len(safe)]
    return [s.label for s in ranked if s.label in safe or s.label in hopeful]


def choose(scores: Sequence[Score], max_drop: float, errors: float = 1.0) -> Score | None:
    """The fastest candidate that loses at most ``max_drop`` points even ``errors`` standard errors further down.

    The margin is what keeps the choice within the limit on samples it was not chosen on; None = nobody does.
    """
    safe = [s for s in scores if s.within(max_drop, -errors)]
    return max(safe, key=lambda s: (s.speed, s.accuracy, s.label), default=None)


Race = Callable[[Rung, Sequence[str]], Mapping[str, Score]]


@dataclass
class Heats:
    """A race that keeps what it has decoded: a round's scores are over the samples of all rounds so far.

    Attributes:
        decode: the records of a round's samples, of the given labels and of static decoding.
        per: the speed that counts, of `SPEEDS`.
        held: by label all records so far.
    """

    decode: Callable[[Rung, Sequence[str]], Iterable[Record]]
    per: str = "forward"
    held: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, rung: Rung, labels: Sequence[str]) -> dict[str, Score]:
        """Run a round; a label that was not decoded (it does not fit the model) has no score."""
        for record in self.decode(rung, labels):
            self.held[record["label"]].append(record)
        static = self.held[STATIC.label]
        return {label: score(label, self.held[label], static, self.per) for label in labels if label in self.held}


def halve(
    candidates: Sequence[str], samples: int, max_drop: float, race: Race, fewest: int = FEWEST
) -> tuple[list[str], Mapping[str, Score]]:
    """Run all rounds.

    Args:
        candidates: labels.
        samples: per task and seed in the last round.
        max_drop: points of accuracy that may be lost.
        race: decodes a round's samples of the given labels and returns their scores over all samples so far.
        fewest: per task and seed in the first round.

    Returns:
        The finalists, the best first, and their scores over all samples.
    """
    left, scores = list(candidates), {}
    for rung in rungs(len(left), samples, fewest):
        scores = dict(race(rung, left))
        left = survivors([scores[label] for label in left], rung.keep, max_drop)
    return left, {label: scores[label] for label in left}
