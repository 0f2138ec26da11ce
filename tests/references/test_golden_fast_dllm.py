"""Fast-dLLM's reference loops, with and without its caches: tokens, forwards and commits of every recorded run."""

from __future__ import annotations

from typing import Any

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult
from samplers import Frechet, Policy, Threshold, TopK
from tests.references.golden_data import golden_json, golden_model
from tests.references.quirks import BlindFirst, ExtraForward, LastRankFactor, ThresholdQuota

pytestmark = pytest.mark.golden

Case = dict[str, Any]
DREAM_SCORES = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def recorded(family: str) -> list[Any]:
    """The cases of one family, named by what distinguishes them."""
    cases = golden_json(f"fast_dllm/{family}_cases.json")["cases"]
    words = ("kind", "policy", "alg", "cache", "prompt", "gen_length", "block_length", "steps")
    knobs = ("threshold", "factor", "margin")

    def name(case: Case) -> str:
        said = [str(case[word]) for word in words if case.get(word) is not None]
        return "-".join(said + [f"{knob}{case[knob]}" for knob in knobs if case.get(knob) is not None])

    return [pytest.param(case, id=name(case)) for case in cases]


def decode(family: str, case: Case, policy: Policy) -> GenerationResult:
    """Decode a case's prompt without an early stop."""
    config = GenerationConfig(
        max_new_tokens=case["gen_length"], block_length=case.get("block_length"), early_stop=False
    )
    sampler = DiffusionSampler(golden_model(f"fast_dllm/tiny_{family}"), policy, case["cache"], config)
    return sampler.generate(prompt_of(family, case))


def prompt_of(family: str, case: Case) -> list[int]:
    """The case's prompt."""
    prompt: list[int] = golden_json(f"fast_dllm/{family}_cases.json")["prompts"][case["prompt"]]
    return prompt


def steps_per_block(case: Case) -> int:
    """The reference's `steps` argument is the total over the blocks."""
    blocks = case["gen_length"] // case["block_length"] if case.get("block_length") else 1
    steps: int = case["steps"] // blocks
    return steps


def assert_same(family: str, case: Case, result: GenerationResult) -> None:
    """Tokens, forwards, what each forward cost, and what it committed."""
    first = len(prompt_of(family, case))
    assert result.sequences[0] == case["output_ids"][first:]
    assert result.nfe[0] == case["nfe"]
    for mine, theirs in zip(result.trace[0].steps, case["trace"], strict=True):
        *forwarded, positions, tokens, confidences = theirs
        by_position = sorted(zip(mine.cells, mine.new, mine.confidence, strict=True))
        assert mine.tokens == forwarded[0]
        assert [cell + first for cell, _, _ in by_position] == positions
        assert [token for _, token, _ in by_position] == tokens
        if case.get("alg") not in ("entropy", "topk_margin"):  # recorded, and ranked, in a unit of their own
            assert [p for _, _, p in by_position] == pytest.approx(confidences, abs=2e-5)
            assert mine.confidence == sorted(mine.confidence, reverse=True)


@pytest.mark.parametrize("case", recorded("llada"))
def test_llada(case: Case) -> None:
    rules: dict[str, Any] = {
        "fixed": lambda: TopK(steps=steps_per_block(case)),
        "threshold": lambda: Threshold(case["threshold"]),
        "factor": lambda: LastRankFactor(case["factor"]),
        "frechet": lambda: Frechet(case["margin"]),
    }
    result = decode("llada", case, rules[case["policy"]]())
    assert_same("llada", case, result)
    if "nfe_per_block" in case:
        blocks = [step.block for step in result.trace[0].steps]
        assert [blocks.count(block) for block in range(len(case["nfe_per_block"]))] == case["nfe_per_block"]


def first_release_differs(case: Case) -> bool:
    """Whether the first release decoded this run, with other forwards (with one step per block it raised)."""
    return not case.get("v0_error") and case.get("nfe_v0") not in (None, case["nfe"])


@pytest.mark.parametrize("case", [c for c in recorded("llada") if first_release_differs(c.values[0])])
def test_llada_first_release(case: Case) -> None:
    """The June 2025 code wastes one forward on each block that its cached opening forward completes."""
    assert case["v0_same_output"] and case["cache"] != "none"
    rule = {"fixed": TopK(steps=steps_per_block(case)), "threshold": Threshold(case["threshold"] or 0.9)}
    result = decode("llada", case, rule[case["policy"]] | ExtraForward())
    assert result.sequences[0] == case["output_ids"][len(prompt_of("llada", case)) :]
    assert result.nfe[0] == case["nfe_v0"] > case["nfe"]


def dream_policy(case: Case) -> Policy:
    """The rule of a recorded Dream run; in its cached loop the block's first cell is taken blindly."""
    if case["alg"] == "confidence_threshold":
        if case["kind"] == "full":
            return ThresholdQuota(steps=case["steps"], threshold=case["threshold"])
        return Threshold(case["threshold"]) | BlindFirst()
    score = DREAM_SCORES[case["alg"]]
    rule = TopK(steps=steps_per_block(case), schedule="time", score=score)  # type: ignore[arg-type]
    return rule | BlindFirst() if case["kind"] == "block" else rule


@pytest.mark.parametrize("case", recorded("dream"))
def test_dream(case: Case) -> None:
    result = decode("dream", case, dream_policy(case))
    if case["masks_left"]:
        # One step per block: the reference forwards once more, commits nothing and leaves the masks. Not reproduced.
        mask_id = golden_json("fast_dllm/dream_cases.json")["mask_id"]
        assert case["output_ids"].count(mask_id) == case["masks_left"]
        assert mask_id not in result.sequences[0]
        assert result.nfe[0] == case["nfe"]  # the same forwards, used
        return
    assert_same("dream", case, result)
