"""AdaBlock, LocalLeap, Learn2PD with EoTP and EGP against recorded runs of their reference loops, token for token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dllm_decode import DiffusionSampler, GenerationConfig, Threshold
from dllm_decode.engine.result import GenerationResult
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models import NativeModel
from filters import FilterNetwork, LearnedFilter
from samplers import EGP, AdaBlock, EosStop, EoTP, Learn2PD, LocalLeap, Policy, Prediction, View
from tests.references.golden_data import golden_json, golden_model
from tests.references.quirks import keeping_cut_cache

pytestmark = pytest.mark.golden

Case = dict[str, Any]


def cases(name: str) -> list[Any]:
    """The cases of one file, as parameters named by their ids."""
    found = golden_json(f"block_policies/{name}.json")
    return [pytest.param(case, id=case.get("id", case.get("name"))) for case in found]


def model(eos_id: int | None = None) -> NativeModel:
    """The tiny LLaDA whose end-of-text token is the case's."""
    tiny = copy.copy(golden_model("block_policies/tiny_llada"))
    tiny.eos_ids = () if eos_id is None else (eos_id,)
    return tiny


def decode(
    case: Case, policy: Policy, cache: str, block_length: int, keeps_cut_cache: bool = False
) -> GenerationResult:
    """Decode the case's prompt, without any early stop but the policy's own."""
    config = GenerationConfig(max_new_tokens=case["gen_length"], block_length=block_length, early_stop=False)
    tiny = model(case.get("eos_id", case.get("eot_id")))
    tiny = keeping_cut_cache(tiny) if keeps_cut_cache else tiny
    return DiffusionSampler(tiny, policy, cache=cache, config=config).generate(case["prompt"])


def assert_same(case: Case, result: GenerationResult) -> None:
    """Same tokens, same number of forwards, and the same cells committed at each."""
    prompt = len(case["prompt"])
    assert result.sequences[0] == case["output"][prompt:]
    assert result.nfe[0] == case["nfe"]
    if "steps" not in case:
        return
    steps = result.trace[0].steps
    for mine, step in zip(steps, case["steps"], strict=True):
        # The references also list what they commit behind a cut made by the same forward.
        theirs = sorted(tuple(commit[:2]) for commit in step["commit"] if commit[0] < prompt + mine.length)
        decided = [(c + prompt, t) for c, t in zip(mine.cells, mine.new, strict=True) if c not in mine.filled]
        assert sorted(decided) == theirs
        if step["commit"] and isinstance(step["commit"][0][2], float):
            confidence = {
                c + prompt: p for c, p in zip(mine.cells, mine.confidence, strict=True) if c not in mine.filled
            }
            assert confidence == pytest.approx({c[0]: c[2] for c in step["commit"]}, abs=2e-5)
        if "block" in step:
            assert mine.block == step["block"]


@pytest.mark.parametrize("case", cases("adablock"))
def test_adablock(case: Case) -> None:
    fallback = case["default_block"]
    policy = AdaBlock(
        delimiters=tuple(case["delimiter_ids"]),
        delimiter_threshold=float(case["delimiter_threshold"]),
        default_length=fallback,
    ) | Threshold(case["threshold"])
    result = decode(case, policy, case["cache"], fallback)
    assert_same(case, result)
    opened = [step for step in result.trace[0].steps if step.opening]
    assert [step.end - step.start for step in opened] == case["block_lengths"]
    assert [step.start + len(case["prompt"]) for step in opened] == [block["start"] for block in case["blocks"]]
    per_block = [sum(step.block == b for step in result.trace[0].steps) for b in range(len(opened))]
    assert per_block == case["nfe_per_block"]


def leap(case: Case) -> LocalLeap:
    """The case's LocalLeap; without a relaxed threshold it is plain threshold decoding."""
    anchor, relaxed = case["anchor_threshold"], case["relaxed_threshold"]
    relaxed = anchor if relaxed is None else relaxed
    return LocalLeap(anchor, relaxed, case["radius"], inverted=relaxed > anchor)


@pytest.mark.parametrize("case", [*cases("localleap"), *cases("localleap_cached_derived")])
def test_localleap(case: Case) -> None:
    policy: Policy = leap(case)
    if case["early_stop"]:
        policy = policy | EosStop(when="block")
    assert_same(case, decode(case, policy, case.get("cache", "none"), case["block_length"]))


@pytest.mark.parametrize("case", cases("localleap_worked"))
def test_localleap_worked(case: Case) -> None:
    confidence = torch.tensor([case["confidence"]])
    masked = torch.tensor([case["masked"]])
    tokens = torch.where(masked, 0, 1)
    number = torch.tensor([len(case["masked"])])
    zero = torch.zeros_like(number)
    view = View(
        tokens=tokens, masked=masked, valid=torch.ones_like(masked), start=zero, end=number, length=number,
        budget=number, step=zero, block_step=zero, block_index=zero, mask_id=0, eos_ids=(), generators=(),
    )  # fmt: skip
    prediction = Prediction(torch.tensor([case["predicted"]]), confidence, masked, masked)
    decision, _ = leap(case).decide(view, prediction, None)
    assert decision.write[0].nonzero()[:, 0].tolist() == case["commit"]
    assert decision.values[decision.write].tolist() == [case["predicted"][i] for i in case["commit"]]


def learned(key: str) -> LearnedFilter:
    """A hand-set filter of the golden data."""
    weights = golden_json("block_policies/learn2pd_filters.json")[key]
    network = FilterNetwork.of({name: torch.tensor(value) for name, value in weights.items()})
    return LearnedFilter(network, model="golden")


@pytest.mark.parametrize("number", range(len(golden_json("block_policies/learn2pd_filter_forward.json"))))
def test_filter_forward(number: int) -> None:
    case = golden_json("block_policies/learn2pd_filter_forward.json")[number]
    width = case["width"]
    end = torch.tensor([width])
    probability = learned(str(case["block"])).probability(
        torch.tensor([case["confidence"]]), torch.zeros_like(end), end
    )
    assert torch.logit(probability[0, :width].double()).tolist() == pytest.approx(case["logits"], abs=2e-4)


class Watch(LearnedFilter):
    """A filter that keeps what it read and said."""

    def probability(self, values: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        said = super().probability(values, start, end)
        block = slice(int(start[0]), int(end[0]))
        self.card.setdefault("read", []).append(values[0, block].tolist())
        self.card.setdefault("said", []).append(said[0, block].tolist())
        return said


def learn2pd(case: Case, watch: LearnedFilter) -> tuple[Policy, str]:
    """The case's policy and cache."""
    kind = case["policy"]
    cache = kind.rsplit("_", 1)[1] if kind.endswith(("prefix", "dual")) else "none"
    policy: Policy = Threshold(2.0) if kind == "eot" else Learn2PD(watch, threshold=case["tau"])
    if kind != "l2p" and case.get("eot_id") is not None:
        policy = policy | EoTP()
    return policy, cache


@pytest.mark.parametrize("case", cases("learn2pd_decode"))
def test_learn2pd(case: Case) -> None:
    base = learned(case["filter"]) if case.get("filter") else learned(str(case["block_length"]))
    watch = Watch(base.network)
    policy, cache = learn2pd(case, watch)
    result = decode(case, policy, cache, case["block_length"], keeps_cut_cache=cache == "dual")
    assert_same(case, result)
    assert len(case["prompt"]) + len(result.sequences[0]) == case["output_len"]
    assert [step.tokens for step in result.trace[0].steps] == case["input_lens"]
    if "filter_inputs" in case:
        for mine, theirs in zip(watch.card["read"], case["filter_inputs"], strict=True):
            assert mine == pytest.approx(theirs, abs=5e-5)
        for mine, theirs in zip(watch.card["said"], case["filter_probs"], strict=True):
            assert mine == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize("case", [c for c in cases("learn2pd_decode") if "alt_kv_truncated" in c.values[0]])
def test_learn2pd_cuts_the_cache(case: Case) -> None:
    base = learned(case["filter"])
    policy, cache = learn2pd(case, base)
    result = decode(case, policy, cache, case["block_length"])
    cut = case["alt_kv_truncated"]
    assert_same({"prompt": case["prompt"], "output": cut["output"], "nfe": cut["nfe"]}, result)
    assert (result.sequences[0] != case["output"][len(case["prompt"]) :]) == cut["differs"]


@pytest.mark.parametrize("case", cases("learn2pd_egp"))
def test_egp(case: Case) -> None:
    prompt, block = len(case["prompt"]), case["block_length"]
    greedy = decode(case, Threshold(2.0), "none", block)
    assert greedy.sequences[0] == case["reference"][prompt:]
    records: list[Case] = []

    class Look(EGP):
        def decide(self, view: View, prediction: Prediction, memory: Any) -> Any:
            inside = view.in_block
            token = prediction.token
            records.append(
                {
                    "confidence": prediction.confidence[inside].tolist(),
                    "pred": token[inside].tolist(),
                    "is_correct": (token == memory.reference)[inside].int().tolist(),
                }
            )
            return super().decide(view, prediction, memory)

    result = decode(case, Look(tuple(map(tuple, greedy.sequences))), "none", block)
    assert result.sequences == greedy.sequences
    for mine, step, theirs in zip(records, result.trace[0].steps, case["records"], strict=True):
        assert step.block == theirs["block"]
        assert mine["pred"] == theirs["pred"]
        assert mine["is_correct"] == theirs["is_correct"]
        assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=2e-5)


def test_forward() -> None:
    check = golden_json("block_policies/forward_check.json")
    tiny = model()
    tokens = torch.tensor([check["input"]])
    size = torch.tensor([tokens.shape[1]])
    inp = ForwardInput(tokens, torch.arange(tokens.shape[1])[None], size, size)
    logits = tiny.head(tiny.hidden(inp, torch.arange(tokens.shape[1])))
    assert logits.argmax(-1).tolist() == check["argmax"]
    assert logits.softmax(-1).amax(-1).tolist() == pytest.approx(check["max_prob"], abs=2e-5)
    assert logits[10].tolist() == pytest.approx(check["logits_pos10"], abs=1e-3)
