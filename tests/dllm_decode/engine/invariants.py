"""What holds of every run, whatever the policy: the invariants of a result, checked against its trace alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from dllm_decode import GenerationConfig, GenerationResult, Trace, TraceStep
from samplers import Composition, Scope, Wino
from samplers.wino import FIRST
from tests.toys import EOS


def check_run(
    result: GenerationResult,
    policy: Composition,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    cache: str,
    shift: int,
) -> None:
    """Invariants 1 (progress), 2 (masks and committed cells), 6 (replay) and 7 (counters) of every row.

    Args:
        result: what was generated.
        policy: the bound policy.
        prompts: of each row, with masks if they were filled in.
        config: its settings.
        cache: the cache's name.
        shift: the model's.
    """
    for row, trace in enumerate(result.trace):
        sequence, mask = result.sequences[row], trace.mask_id
        # WINO may take back more than it commits; what its commits allow it bounds the forwards of a block instead.
        lags = any(isinstance(part, Wino) for part in policy.parts)
        assert not lags or all(forwards <= cells + FIRST for forwards, cells in spent(trace))
        # 1. termination: every mask is decided; progress: every forward nets a commit or holds, and not for ever
        assert mask not in sequence
        waited = 0
        for step, before, after in steps_with_canvas(trace):
            shorter = len(after) < len(before)
            gained = sum(new != mask for new in step.new) - sum(new == mask for new in step.new)
            waited = (
                0 if gained >= 1 or shorter or step.inserted else waited + 1
            )  # the engine refuses what does not hold
            last = step is trace.steps[-1] and mask in before  # without masks it was looked over once more
            assert (waited <= config.max_new_tokens + len(trace.canvas) and not last) or not waited
            # 2. the mask is never proposed, no committed cell changes
            if not policy.revises:
                assert mask not in step.new and set(step.old) <= {mask}
                assert all(before[cell] == mask for cell in step.cells)
            assert all(0 <= p <= 1 + 1e-6 for p in step.confidence)
            assert len(set(step.cells)) == len(step.cells)
        # 6. the trace replays
        assert trace.replay() == sequence
        grows = any(step.inserted for step in trace.steps)
        decided = [cell for cell, token in enumerate(trace.canvas) if token == mask and cell < len(sequence)]
        assert grows or sorted(cell for cell in trace.order() if cell < len(sequence)) == decided
        begun = config.max_new_tokens if policy.starts is None else min(policy.starts, config.max_new_tokens)
        assert trace.prompt + trace.canvas == [*prompts[row], *[mask] * begun]
        assert len(sequence) <= config.max_new_tokens + config.infill * len(trace.canvas)
        check_counters(result, row, policy, config, cache, shift)
    assert max(result.nfe) <= result.calls <= sum(result.nfe)


def spent(trace: Trace) -> Iterator[tuple[int, int]]:
    """Forwards and cells of each block."""
    for block in {step.block for step in trace.steps}:
        steps = [step for step in trace.steps if step.block == block]
        yield len(steps), steps[-1].end - steps[-1].start


def steps_with_canvas(trace: Trace) -> Iterator[tuple[TraceStep, list[int], list[int]]]:
    """Each step with the canvas before and after it."""
    for i, step in enumerate(trace.steps):
        yield step, trace.replay(i), trace.replay(i + 1)


def check_counters(
    result: GenerationResult, row: int, policy: Composition, config: GenerationConfig, cache: str, shift: int
) -> None:
    """7. Costs and token counts, recomputed from the trace alone."""
    trace, sequence = result.trace[row], result.sequences[row]
    assert result.nfe[row] == len(trace.steps) == trace.steps[-1].step
    assert result.full_forwards[row] + result.block_forwards[row] == result.nfe[row]
    assert result.rows_forwarded[row] == sum(step.rows for step in trace.steps)
    assert result.tokens_forwarded[row] == sum(step.tokens for step in trace.steps)
    # Given cells count nowhere; an end token ends the text if it was decided, with no given text behind it.
    given = [token != trace.mask_id for token in trace.canvas[: len(sequence)]]
    given += [False] * (len(sequence) - len(given))  # where it grew
    text = max((cell for cell, token in enumerate(sequence) if given[cell] and token != EOS), default=-1)
    ends = [cell for cell, token in enumerate(sequence) if token == EOS and not given[cell] and cell > text]
    cells = min(ends, default=len(sequence))
    content = given[:cells].count(False)
    assert result.content_tokens[row] == content
    assert result.until_eos_tokens[row] == content + bool(ends)
    assert result.canvas_tokens[row] == given.count(False)
    assert result.tokens_per_forward[row] == content / result.nfe[row]
    times = 2 if config.guidance else 1
    if cache == "none" and "query" not in policy.roles:
        assert result.full_forwards[row] == result.nfe[row]
    elif config.refresh == 1:
        assert result.full_forwards[row] == sum(step.opening or cache == "none" for step in trace.steps)
    if "query" in policy.roles:
        assert all(step.rows >= 1 and step.tokens >= step.rows for step in trace.steps)
        return
    assert result.rows_forwarded[row] == times * result.nfe[row]
    if config.refresh != 1:
        return
    offset, owed = len(trace.prompt), False
    reads_block = Scope.BLOCK in policy.scope
    for i, (step, before, after) in enumerate(steps_with_canvas(trace)):
        whole = offset + len(before)
        if cache == "none" or step.opening:
            expected = whole
        else:
            early = shift and (owed or before[step.start] == trace.mask_id or reads_block) and offset + step.start > 0
            last = offset + max(trace.steps[i - 1].end, step.end) if cache == "dual" else whole
            last = whole if trace.steps[i - 1].inserted else last  # what has moved is forwarded again
            expected = last - (offset + step.start - bool(early))
        assert step.tokens == times * expected, (i, step)
        if step.opening:
            owed = after[step.start] == trace.mask_id if step.start < len(after) else False


def same(left: TraceStep, right: TraceStep) -> bool:
    """Equal but for the last digits of the confidences."""
    a, b = dataclasses.asdict(left), dataclasses.asdict(right)
    close = torch.allclose(torch.tensor(a.pop("confidence")), torch.tensor(b.pop("confidence")), atol=1e-4)
    return close and a == b
