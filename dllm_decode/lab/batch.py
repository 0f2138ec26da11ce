"""One batch of a comparison: what is to be decoded, and the records that come of it."""

from __future__ import annotations

from dataclasses import dataclass

from dllm_decode.lab.points import STATIC, Point
from dllm_decode.lab.problems import Problem
from dllm_decode.lab.records import Ledger, Record
from dllm_decode.lab.setting import EGP
from dllm_decode.lab.workers import Decoded, Job

BATCH_STRIDE = 1_000_003  # keeps apart the random numbers by which an oracle breaks ties in different batches


@dataclass(frozen=True)
class Batch:
    """Problems that are decoded together under one policy; ``places`` are theirs in the whole task."""

    cache: str
    point: Point
    problems: list[Problem]
    places: tuple[int, ...]

    @property
    def keys(self) -> list[str]:
        """Names of its samples."""
        return [key(self.point, self.cache, problem) for problem in self.problems]


def key(point: Point, cache: str, problem: Problem) -> str:
    """The name of one sample in the records; unique."""
    return f"{point.label}|{cache}|{problem.task}|{problem.template}|{problem.seed}|{problem.sample}"


def job_of(batch: Batch, ledger: Ledger) -> Job:
    """What is to be decoded; EGP aims at what static decoding wrote, which the ledger must hold."""
    reference = None
    if batch.point == EGP:
        reference = tuple(tuple(ledger.records[name]["tokens"]) for name in static_keys(batch))
    first = batch.problems[0]
    prompts = tuple(problem.prompt for problem in batch.problems)
    ties = first.seed + BATCH_STRIDE * (1 + first.sample)
    return Job(
        first.task,
        batch.cache,
        batch.point.policy,
        first.seed,
        ties,
        first.canvas,
        batch.places,
        prompts,
        reference,
    )


def static_keys(batch: Batch) -> list[str]:
    """Names of static decoding's samples of the same problems."""
    return [key(STATIC, batch.cache, problem) for problem in batch.problems]


def score(batch: Batch, decoded: Decoded) -> list[Record]:
    """The records of a decoded batch."""
    return [
        {
            "key": name,
            "policy": batch.point.policy,
            "label": batch.point.label,
            "family": batch.point.family,
            "cache": batch.cache,
            "task": problem.task,
            "template": problem.template,
            "sample": problem.sample,
            "seed": problem.seed,
            "correct": int(problem.accepts(answer, found["tokens"])),
            **found,
            "prompt": problem.prompt,
            "answer": answer,
            "expected": problem.expected,
        }
        for name, problem, (answer, found) in zip(batch.keys, batch.problems, decoded, strict=True)
    ]
