"""DAEDAL: the released loop, which grows its canvas, then decodes and expands masks in it."""

from __future__ import annotations

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult, Trace
from dllm_decode.models import NativeModel
from samplers import Composition, Daedal, Policy, Threshold
from tests.references.frontier_data import Case, model_of, recorded, story, told
from tests.toys import Ending

pytestmark = pytest.mark.golden


def policy(case: Case) -> Policy:
    """The rule of a case."""
    given = case["settings"]
    length = Daedal(
        given["initial_gen_length"],
        given["expansion_factor"],
        given["eos_check_tokens"],
        given["eos_confidence_threshold"],
        given["expand_eos_confidence_threshold"],
        given["low_conf_threshold"],
    )
    return Composition.of(length, Threshold(given["high_conf_threshold"]))


def decode(case: Case, cache: str = "none") -> GenerationResult:
    """Decode a case as the released code does, or over a cache."""
    model, given = model_of(case), case["settings"]
    assert isinstance(model, NativeModel) and model.eos_ids == (case["eos_id"],)
    config = GenerationConfig(
        max_new_tokens=given["max_gen_length"], block_length=given["block_length"], early_stop=False
    )
    return DiffusionSampler(Ending(model, case["eos_logit_bias"]), policy(case), cache, config).generate(
        case["prompt_ids"]
    )


def grown(trace: Trace) -> list[tuple[int, int]]:
    """Cells put in by each forward, and the row's length before it."""
    lengths = [len(trace.canvas), *(step.length for step in trace.steps)]
    return [(after - before, before) for before, after in zip(lengths, lengths[1:], strict=False)]


@pytest.mark.parametrize("case", recorded("daedal"))
def test_released(case: Case) -> None:
    result = decode(case)
    first, theirs, trace = len(case["prompt_ids"][0]), told(case), result.trace[0]
    assert story(result, first) == [written for written, _ in theirs]
    assert result.sequences[0] == case["output_ids"][0][first:]
    assert result.nfe[0] == case["n_forward"] and len(result.sequences[0]) == case["final_length"]
    last_of_first_stage = sum(step["stage"] == 1 for step in case["steps"]) - 1
    for number, (mine, (_, step), (gain, length)) in enumerate(zip(trace.steps, theirs, grown(trace), strict=True)):
        assert length == step["length"]
        if number != last_of_first_stage:  # which puts end tokens in
            assert gain == step.get("grow", 0)
        if "expand_at" in step:
            assert mine.inserted[0] + first == step["expand_at"]
            assert mine.inserted[1] == case["settings"]["expansion_factor"] - 1
    assert trace.replay() == result.sequences[0]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("case", recorded("daedal"))
def test_over_a_cache_moved_cells_are_forwarded_again(case: Case, cache: str) -> None:
    result = decode(case, cache)
    (trace,), first = result.trace, len(case["prompt_ids"][0])
    assert case["mask_id"] not in result.sequences[0] and trace.replay() == result.sequences[0]
    for before, step, (_, length) in zip(trace.steps, trace.steps[1:], grown(trace)[1:], strict=False):
        if before.inserted and not step.opening:
            assert step.tokens == length - step.start
        assert step.tokens == first + length or not step.opening
