"""A share of a comparison: problems that pass through one feed under one policy, and the records that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.pool import kinds
from dllm_decode.engine.request import Request
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.points import STATIC, Point
from dllm_decode.lab.problems import Problem, is_oracle, make_oracle
from dllm_decode.lab.records import Record, facts
from dllm_decode.lab.setting import EGP
from samplers import Policy
from samplers import egp as aiming

TIES_STRIDE = 1_000_003  # keeps apart the random numbers by which an oracle breaks ties in different shares


@dataclass(frozen=True)
class Share:
    """Problems of one task and seed that are decoded under one policy; ``places`` are theirs in the whole task."""

    cache: str
    point: Point
    problems: list[Problem]
    places: tuple[int, ...]

    @property
    def task(self) -> str:
        """The task of all of them."""
        return self.problems[0].task

    @property
    def keys(self) -> list[str]:
        """Names of its samples."""
        return [key(self.point, self.cache, problem) for problem in self.problems]

    @property
    def static(self) -> Share:
        """The share of static decoding on the same problems."""
        return replace(self, point=STATIC)


def key(point: Point, cache: str, problem: Problem) -> str:
    """The name of one sample in the records; unique."""
    return f"{point.label}|{cache}|{problem.task}|{problem.template}|{problem.seed}|{problem.sample}"


def model_of(model: DenoisingModel | None, task: str, seed: int) -> DenoisingModel:
    """The model of a task. Oracles break ties at random: a fresh one per share, so that a resumed run agrees."""
    if is_oracle(task):
        return make_oracle(task, seed)
    assert model is not None
    return model


def prompt_of(task: str, prompt: str) -> Any:
    """What the sampler is given; an oracle reads no prompt, but a row needs one."""
    return [0] if is_oracle(task) else prompt


@dataclass
class Decoder:
    """Decodes shares in this process.

    Attributes:
        model: of the bundled tasks; ``None`` if there are only oracles.
        config: what all shares have in common. ``batch_size``: rows decoded together.
        warm: the first share has been prepared for, so that its wall time is like the others'.
    """

    model: DenoisingModel | None
    config: GenerationConfig
    batch_size: int
    warm: bool = False

    def decode(self, share: Share, reference: Sequence[Sequence[int]] | None = None) -> list[Record]:
        """The records of a share; EGP aims at ``reference``, what static decoding wrote."""
        if not self.warm:
            self.warm = True
            short = share.problems[0].canvas if is_oracle(share.task) else min(2, share.problems[0].canvas)
            one = replace(share, problems=share.problems[:1], places=share.places[:1])
            sampler = self._sampler(one, STATIC.policy, "none")
            sampler.generate([prompt_of(one.task, one.problems[0].prompt)], max_new_tokens=short)
        aims = None if reference is None else tuple(map(tuple, reference))
        policy = share.point.policy if aims is None else aiming.EGP(aims)
        sampler = self._sampler(share, policy, share.cache)
        found: dict[int, tuple[str, Record]] = {}
        for kind in kinds(self._requests(share, sampler)):
            result = sampler.run(kind, batch_size=self.batch_size)
            texts = result.texts or [" ".join(map(str, tokens)) for tokens in result.sequences]
            for i, (request, text) in enumerate(zip(kind, texts, strict=True)):
                told = facts(result, i, sampler.model.eos_ids)
                found[request.row] = text, {**told, "batch": min(self.batch_size, len(kind))}
        return [_record(share, i, *found[i]) for i in range(len(share.problems))]

    def _sampler(self, share: Share, policy: Policy | str, cache: str) -> DiffusionSampler:
        first = share.problems[0]
        ties = first.seed + TIES_STRIDE * (1 + first.sample)
        config = self.config.replace(max_new_tokens=first.canvas, seed=first.seed)
        return DiffusionSampler(model_of(self.model, share.task, ties), policy, cache, config)

    @staticmethod
    def _requests(share: Share, sampler: DiffusionSampler) -> list[Request]:
        """A request per problem, in order; problems may differ in their canvas."""
        found: list[Request] = []
        for canvas, group in groupby(range(len(share.problems)), lambda i: share.problems[i].canvas):
            rows = list(group)
            prompts = [prompt_of(share.task, share.problems[i].prompt) for i in rows]
            places = [share.places[i] for i in rows]
            found += sampler.requests(prompts, places=places, trace=True, max_new_tokens=canvas)
        return [replace(request, row=i) for i, request in enumerate(found)]


def _record(share: Share, i: int, answer: str, found: Record) -> Record:
    """What is kept of a decoded problem."""
    problem, point = share.problems[i], share.point
    return {
        "key": key(point, share.cache, problem),
        "policy": point.policy,
        "label": point.label,
        "family": point.family,
        "cache": share.cache,
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


def aims_of(share: Share, records: dict[str, Record]) -> list[list[int]] | None:
    """What static decoding wrote for the problems of a share of EGP; ``None`` for any other share."""
    return [records[name]["tokens"] for name in share.static.keys] if share.point == EGP else None
