"""Whole runs on a GPU at the pace of a recorded one, and the error of bf16."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.trace import Trace
from dllm_decode.models import ForwardInput, NativeModel, load_model
from dllm_decode.tasks import few_shot, samples
from samplers import Decision, Policy, Prediction, View, top
from samplers.contract.memory import Memory
from samplers.contract.policy import Forecast
from scripts.bench.gpu import Plan, time_steps
from scripts.bench.measure import prompts_of


@dataclass(frozen=True)
class Paced(Policy):
    """Commits as many of the most confident cells as a recorded run did: a real pace on random weights.

    ``counts``: per block of that run, cells committed at each of its forwards.
    """

    counts: tuple[tuple[int, ...], ...] = ((1,),)

    @property
    def forecast(self) -> Forecast:
        """Of the first forward; ``forecast_of`` of each."""
        return "top", self.counts[0][0]

    def forecast_of(self, rows: Rows) -> Forecast:
        """What a forward of one row will commit: as sure as a threshold is of what lies above it."""
        return "top", int(self.quota(rows.block_index, rows.block_step)[0])

    def quota(self, block: Tensor, step: Tensor) -> Tensor:
        """Long ``[B]``: cells to commit; what is left after the recorded forwards goes with the last."""
        wide = max(map(len, self.counts))
        table = torch.tensor([[*c, *[10**6] * (wide + 1 - len(c))] for c in self.counts])
        return table[block % len(self.counts), step.clamp(max=wide)].clamp(min=1)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        """The most confident cells."""
        write = top(prediction.confidence, prediction.open, self.quota(view.block_index, view.block_step))
        return Decision(write, prediction.token, order=-prediction.confidence), memory


def pace_of(traces: Iterable[Trace], block: int) -> tuple[tuple[int, ...], ...]:
    """Cells committed at each forward of each full block of ``block`` cells."""
    out = []
    for trace in traces:
        blocks: dict[int, list[int]] = {}
        for step in trace.steps:
            if step.end - step.start == block:
                blocks.setdefault(step.block, []).append(len(step.cells) - len(step.filled))
        out += [tuple(counts) for counts in blocks.values() if sum(counts) == block]
    return tuple(out)


def recorded_pace(block: int) -> tuple[tuple[int, ...], ...]:
    """The pace of the bundled model under the threshold policy."""
    model = load_model("tiny", device="cpu")
    assert model.tokenizer is not None
    prompts = [model.tokenizer.encode_prompt(few_shot(s, min_tokens=150)) for s in samples("lines", "test", 4, 7)]
    config = GenerationConfig(max_new_tokens=4 * block, block_length=block, early_stop=False)
    return pace_of(DiffusionSampler(model, "threshold", cache="dual", config=config).generate(prompts).trace, block)


@dataclass(frozen=True)
class RunRow:
    """A whole run: forwards per second, and what the formulas allow for the same forwards.

    ``discarded``: steps that were begun ahead for nothing, beside these forwards.
    """

    name: str
    forwards: int
    per_second: float
    allowed: float
    discarded: int = 0

    @property
    def share(self) -> float:
        """1 is the best possible."""
        return self.per_second / self.allowed


def whole_run(
    model: NativeModel, plan: Plan, machine: Machine, family: str, pace: tuple[tuple[int, ...], ...]
) -> RunRow:
    """One prompt, dual cache, ``plan.suffix`` cells, committed at the recorded pace."""
    shape = Shape.of(model.module.config, plan.dtype.itemsize)
    length = plan.prompt + plan.suffix
    policy = Paced(pace)
    clock = time_steps(model, plan, length, 1, "dual", policy, most=10**6, forecast=policy.forecast_of)
    kinds = [opening for _, opening in clock.marks[:-1]]
    floors = [
        shape.floor(machine, 1, length if opening else plan.block, length, plan.block // 2, cached=True)
        for opening in kinds
    ]
    spent = clock.marks[-1][0] - clock.marks[0][0]
    name = f"{family}, whole run, B=1, N={length}"
    return RunRow(name, len(kinds), len(kinds) / spent, len(kinds) / sum(floors), clock.discarded)


@torch.no_grad()
def relative_error(model: NativeModel, plan: Plan) -> float:
    """Norm of the difference of the logits of the plan's dtype from fp32, over the norm of fp32's.

    The model's weights are fp32 afterwards.
    """
    length = min(256, min(plan.lengths))

    def logits() -> Tensor:
        ids = torch.tensor(prompts_of(model, length, 1), device=plan.device)
        lengths = torch.tensor([length], device=plan.device)
        inp = ForwardInput(ids, torch.arange(length, device=plan.device)[None], lengths, lengths)
        return model.head(model.hidden(inp, torch.arange(0, length, 4, device=plan.device))).float()

    low = logits()
    model.module.float()
    high = logits()
    return float((low - high).norm() / high.norm())
