"""Block-causal and mixture models against their reference code: every folder under block_models with a cases.json.

Tokens, the cells of every step in order, their confidences and the number of denoising forwards are compared; so is
decoding without a cache.  A finished block's extra forward ("commit") and a prompt's ("prefill") are folded into the
next opening here, so they are no steps, except where they predict a block's first token (Fast-dLLM v2).

Not reproduced, by property: ``use_block_cache`` (an approximate cache of sub-blocks inside the open block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult
from dllm_decode.models import NativeModel
from samplers import BlockQuota, Decision, EosStop, JointThreshold, Policy, Threshold, TopK
from tests.references.golden_data import golden_json, golden_model, golden_path

Case = dict[str, Any]
Step = tuple[list[int], list[int]]  # slots and tokens, in the order they were committed
FOLDERS = sorted(path.parent.name for path in golden_path("block_models").glob("*/cases.json"))

pytestmark = pytest.mark.golden


def family(folder: str) -> str:
    """Name of the family of a folder's checkpoint."""
    return type(golden_model(f"block_models/{folder}").module).__name__


def recorded(*families: str) -> list[Any]:
    """Every case of the folders of these families, as test parameters."""
    return [
        pytest.param(folder, case, id=f"{folder}-{case['name']}")
        for folder in FOLDERS
        if family(folder) in families
        for case in golden_json(f"block_models/{folder}/cases.json")["cases"]
        if not case.get("use_block_cache")
    ]


def decode(
    folder: str, case: Case, block: int | None, policy: Policy, cells: int, length: int | None = None, **how: Any
) -> GenerationResult:
    """Decode a case's prompt with the case's own attention block; with and without a cache the same comes out."""
    source = golden_model(f"block_models/{folder}")
    model = NativeModel(source.module, mask_id=source.mask_id, pad_id=source.pad_id, attention_block=block, **how)
    config = GenerationConfig(max_new_tokens=cells, block_length=length, early_stop=False)
    plain = DiffusionSampler(model, policy, "none", config).generate([case["prompt_ids"]])
    if block is None:
        return plain
    cached = DiffusionSampler(model, policy, "auto", config)
    assert cached.cache == "block"
    result = cached.generate([case["prompt_ids"]])
    assert result.sequences == plain.sequences and result.nfe == plain.nfe
    assert result.tokens_forwarded[0] <= plain.tokens_forwarded[0]
    for mine, theirs in zip(result.trace[0].steps, plain.trace[0].steps, strict=True):
        assert (mine.cells, mine.old, mine.new) == (theirs.cells, theirs.old, theirs.new)
        assert mine.confidence == pytest.approx(theirs.confidence, abs=1e-4)
    return result


def steps(result: GenerationResult, prompt: int) -> list[Step]:
    """Slots and tokens of every forward, without what was filled when the row stopped."""
    out = []
    for step in result.trace[0].steps:
        chosen = [k for k, cell in enumerate(step.cells) if cell not in step.filled]
        out.append(([prompt + step.cells[k] for k in chosen], [step.new[k] for k in chosen]))
    return out


def assert_confidences(result: GenerationResult, expected: list[list[float]]) -> None:
    for step, confidence in zip(result.trace[0].steps, expected, strict=False):
        assert step.confidence[: len(confidence)] == pytest.approx(confidence, abs=5e-4)


@pytest.mark.parametrize(("folder", "case"), recorded("SDAR", "SDARMoE"))
def test_sdar(folder: str, case: Case) -> None:
    prompt, block, by_position = len(case["prompt_ids"]), case["block_length"], case["rule"] == "sequential"
    quirk = case["sampler"] == "generate" and case["rule"] == "dynamic"  # its confidences are all 1.0
    threshold = {"static": None, "sequential": None, "dynamic": 1e-6 if quirk else case["threshold"]}[case["rule"]]
    order = "left_to_right" if by_position else "confidence"
    policy: Policy = BlockQuota(case["denoising_steps"], threshold, order)  # type: ignore[arg-type]
    ends = {"eos_ids": tuple(case["stop_ids"])} if case["stop_ids"] else {}
    policy = policy | EosStop(when="block") if ends else policy
    result = decode(folder, case, block, policy, case["gen_length"], **ends)

    forwards = [f for f in case["forwards"] if f["kind"] == "denoise"]
    assert result.nfe[0] == case["n_denoise"] == len(forwards)
    got = steps(result, prompt)
    for (slots, tokens), forward in zip(got, forwards, strict=True):
        mine, theirs = zip(slots, tokens, strict=True), zip(forward["pos"], forward["tok"], strict=True)
        assert sorted(mine) == sorted(theirs) if quirk or by_position else list(mine) == list(theirs)
    if not quirk and not by_position:
        assert_confidences(result, [f["conf"] for f in forwards])
    last = max(f["last"] for f in forwards)
    assert (case["prompt_ids"] + result.trace[0].replay())[:last] == case["output_ids"][:last]


@dataclass(frozen=True)
class EosCommitted(Policy):
    """LLaDA2.0's eos_early_stop: only the forward that commits an end token looks whether all before it is decided."""

    def finish(self, view, prediction, decision: Decision, memory):  # type: ignore[no-untyped-def]
        stopped, memory = EosStop().finish(view, prediction, decision, memory)
        fresh = (decision.write & view.is_eos(decision.values)).any(-1)
        keep = fresh & stopped.stop
        write = decision.write | (stopped.write & keep[:, None])
        stop = keep if decision.stop is None else keep | decision.stop
        return Decision(write, stopped.values, stop=stop, order=decision.order, hold=decision.hold), memory


@pytest.mark.parametrize(("folder", "case"), recorded("LLaDA2"))
def test_llada2(folder: str, case: Case) -> None:
    prompt, given = len(case["prompt_ids"]), case["settings"]
    cells, eos, early = given["gen_length"], given.get("eos_id", -1), given.get("eos_early_stop", False)
    policy: Policy
    if case["version"] == "2.0":
        most = min(given.get("steps", 32), cells // given.get("minimal_topk", 1))
        policy = BlockQuota(most, given.get("threshold", 0.95))
        stops = (EosCommitted(), EosStop(when="block")) if early else (EosStop(when="block"),)
    else:
        policy = JointThreshold(
            given.get("threshold", 0.95),
            given.get("editing_threshold", 0.9),
            given.get("max_post_steps", 16),
            given.get("num_to_transfer", 1),
        )
        stops = (EosStop(when="block"),) if early else ()
    ends = {"eos_ids": (eos,)} if eos >= 0 else {}
    for stop in stops if ends else ():
        policy = policy | stop
    result = decode(folder, case, given.get("block_length", 32), policy, cells, **ends)

    assert result.nfe[0] == case["n_forward"]
    assert steps(result, prompt) == [(f["pos"], f["tok"]) for f in case["forwards"]]
    assert_confidences(result, [f["conf"] for f in case["forwards"]])
    edits = sum(old != result.trace[0].mask_id for step in result.trace[0].steps for old in step.old)
    assert edits == case["n_edits"]
    sequence = result.sequences[0]
    assert sequence[: sequence.index(eos) + 1 if eos in sequence else cells] == case["output_ids"]
    last = case["forwards"][-1]["last"]
    assert (case["prompt_ids"] + result.trace[0].replay())[:last] == case["canvas_ids"][:last]


@pytest.mark.parametrize(("folder", "case"), recorded("FastDLLMv2"))
def test_fast_dllm_v2(folder: str, case: Case) -> None:
    """One cell more is asked for than the reference's blocks have: its output ends with the next block's first."""
    prompt, block, stop = len(case["prompt_ids"]), case["block_size"], case["stop_token"]
    whole = case["max_new_tokens"] // block * block - prompt % block
    policy: Policy = TopK() if case["threshold"] >= 1 else Threshold(case["threshold"])
    ends = {"eos_ids": (stop,)} if stop >= 0 else {}
    policy = policy | EosStop() if ends else policy
    result = decode(folder, case, block, policy, whole + 1, case["small_block_size"], **ends)

    expected: list[Step] = []
    confidences: list[list[float]] = []
    for forward in case["forwards"]:
        if forward["kind"] == "denoise":
            expected.append((forward["pos"], forward["tok"]))
            confidences.append(forward["conf"])
        elif "seed" in forward:
            expected.append(([forward["seed"][0]], [forward["seed"][1]]))
            confidences.append([])
    got = steps(result, prompt)
    assert got[: len(expected)] == expected
    assert_confidences(result, confidences)
    stopped = stop >= 0 and stop in case["output_ids"][prompt:]
    assert (len(got) == len(expected)) == stopped
    answer = result.sequences[0][: len(case["output_ids"]) - prompt]
    assert case["prompt_ids"] + answer == case["output_ids"]


@pytest.mark.parametrize(("folder", "case"), recorded("LLaDAMoE"))
def test_llada_moe(folder: str, case: Case) -> None:
    prompt, given = len(case["prompt_ids"]), case["settings"]
    blocks = given["gen_length"] // given["block_length"]
    policy = TopK(steps=given["steps"] // blocks)
    result = decode(folder, case, None, policy, given["gen_length"], given["block_length"])
    assert result.nfe[0] == case["n_forward"]
    assert steps(result, prompt) == [(f["pos"], f["tok"]) for f in case["forwards"]]
    assert_confidences(result, [f["conf"] for f in case["forwards"]])
    assert case["prompt_ids"] + result.sequences[0] == case["output_ids"]


def test_every_case_is_run_or_named() -> None:
    """All families are known, and what is left out has the property it is left out for."""
    known = {"SDAR", "SDARMoE", "LLaDA2", "FastDLLMv2", "LLaDAMoE"}
    assert {family(folder) for folder in FOLDERS} <= known and FOLDERS
    everything = {f: golden_json(f"block_models/{f}/cases.json")["cases"] for f in FOLDERS}
    left_out = [case for cases in everything.values() for case in cases if case.get("use_block_cache")]
    assert len(recorded(*known)) == sum(map(len, everything.values())) - len(left_out)
    assert all(any(forward.get("partial") for forward in case["forwards"]) for case in left_out)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_ragged_batch_is_its_rows(folder: str) -> None:
    """Prompts of a folder decoded together: each row as alone, block-causal or not."""
    model = golden_model(f"block_models/{folder}")
    prompts = [case["prompt_ids"] for case in golden_json(f"block_models/{folder}/cases.json")["cases"][:6]]
    sampler = DiffusionSampler(model, "threshold:threshold=0.7", config=GenerationConfig(max_new_tokens=19))
    torch.manual_seed(0)
    together = sampler.generate(prompts)
    for row, prompt in enumerate(prompts):
        alone = sampler.generate([prompt])
        assert alone.sequences[0] == together.sequences[row] and alone.nfe[0] == together.nfe[row]
        assert alone.tokens_forwarded[0] == together.tokens_forwarded[row]
