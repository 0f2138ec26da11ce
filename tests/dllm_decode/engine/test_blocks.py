"""Block-causal models in the engine: the exact cache, tails, seeds, sub-blocks, infilling, and what is refused."""

from __future__ import annotations

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.harness.likelihood import Likelihood
from samplers import PolicyError
from scripts.random_models import BLOCK_FAMILIES, known_model

VOCABULARY, EOS = 32, 30
PROMPTS = [[3, 5, 7], [1, 2, 3, 4], [9, 8, 7, 6, 5, 4], list(range(12))]


def model(family: str, seed: int = 0):
    return known_model(family, VOCABULARY, 64, layers=2, seed=seed, eos=EOS)


def decode(family: str, policy: str, cache: str, prompts=PROMPTS, **settings):
    config = GenerationConfig(**{"max_new_tokens": 9, "early_stop": False, **settings})
    return DiffusionSampler(model(family), policy, cache, config).generate(prompts)


@pytest.mark.parametrize("family", BLOCK_FAMILIES)
@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("threshold:threshold=0.5", {}),
        ("topk:steps=2", {"block_length": 2}),
        ("ccd", {}),
        ("localleap:anchor_threshold=0.5,relaxed_threshold=0.2,radius=1", {"guidance": 0.7}),
        ("freedave:drafts=3", {"branches": "tree"}),
        ("freedave:drafts=3", {"branches": "expand"}),
        ("adablock:delimiters=3/7/11,delimiter_threshold=0.05+threshold:threshold=0.5", {"block_length": 2}),
        ("blockquota:steps=2,threshold=0.5", {}),
        ("eotp:guess=false+threshold:threshold=0.4", {}),
    ],
)
def test_the_block_cache_gives_the_tokens_of_no_cache(family: str, policy: str, settings: dict) -> None:
    plain, cached = decode(family, policy, "none", **settings), decode(family, policy, "block", **settings)
    assert plain.sequences == cached.sequences and plain.nfe == cached.nfe
    for mine, theirs in zip(cached.trace, plain.trace, strict=True):
        assert [(s.cells, s.new) for s in mine.steps] == [(s.cells, s.new) for s in theirs.steps]
    assert sum(cached.tokens_forwarded) < sum(plain.tokens_forwarded)
    assert cached.full_forwards == [0] * len(PROMPTS)


@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_the_last_block_is_whole_and_its_surplus_no_output(family: str) -> None:
    result = decode(family, "topk", "block")
    for row, prompt in enumerate(PROMPTS):
        tail = -(len(prompt) + 9) % 4
        assert len(result.sequences[row]) == 9 and result.canvas_tokens[row] == 9 + tail
        assert result.nfe[row] == 9 + tail and len(result.trace[row].replay()) == 9 + tail
        assert result.content_tokens[row] <= 9
    shown = [event for event in DiffusionSampler(model(family), "topk").stream(PROMPTS[0], max_new_tokens=6)]
    assert all(len(event.tokens) == 6 and all(cell < 6 for cell in event.cells) for event in shown)
    assert shown[-1].finished and shown[-1].settled == 6


def test_a_seed_is_one_cell_of_its_own_and_greedy_at_every_temperature() -> None:
    result = decode("fast_dllm_v2", "threshold:threshold=0.01", "block", [PROMPTS[1]], max_new_tokens=4)
    assert [step.cells for step in result.trace[0].steps][0] == [0] and result.nfe[0] == 2
    first = {
        decode("fast_dllm_v2", "topk", "block", [PROMPTS[1]], temperature=5.0, seed=seed).sequences[0][0]
        for seed in range(6)
    }
    assert first == {result.sequences[0][0]}


@pytest.mark.parametrize("family", BLOCK_FAMILIES)
def test_infilling_skips_given_blocks(family: str) -> None:
    mask = VOCABULARY - 1
    prompt = [1, 2, mask, mask, 5, 6, 7, 8, mask, 10, mask, 12, 13]
    plain, cached = (
        decode(family, "topk", cache, [prompt], infill=True, max_new_tokens=2) for cache in ("none", "block")
    )
    assert plain.sequences == cached.sequences and mask not in cached.sequences[0]
    assert cached.sequences[0][2:6] == [5, 6, 7, 8]


def test_joint_threshold_edits_what_it_wrote_and_nothing_given() -> None:
    mask = VOCABULARY - 1
    policy = "jointthreshold:threshold=0.3,edit_threshold=0.05,max_post_steps=3"
    plain, cached = (decode("llada2", policy, cache) for cache in ("none", "block"))
    assert plain.sequences == cached.sequences and plain.nfe == cached.nfe
    edits = [old for trace in cached.trace for step in trace.steps for old in step.old if old != mask]
    assert edits
    infilled = decode("llada2", policy, "block", [[1, mask, 3, mask]], infill=True, max_new_tokens=1)
    assert infilled.sequences[0][1] == 3


@pytest.mark.parametrize(
    ("family", "policy", "cache", "settings", "message"),
    [
        ("sdar", "topk", "dual", {}, "is block-causal: .* use block or none"),
        ("llada", "topk", "block", {}, "no block's keys are ever final and cache='block' cannot work"),
        ("sdar", "topk", "block", {"block_length": 3}, "block_length is 3, but .* attention blocks of 4 cells"),
        ("sdar", "topk", "block", {"refresh": 2}, "spare a stale cache some work, but that of .* is exact"),
        ("sdar", "topk+sched", "block", {}, "SchED fills all masks of the row from one forward"),
        ("sdar", "topk+prophet", "none", {}, "Prophet fills all masks of the row from one forward"),
        ("sdar", "topk+eotp", "block", {}, "EoTP guesses where the text ends from cells behind the block"),
        ("sdar", "freedave:cross_block=true", "none", {}, "cross_block drafts cells of later blocks"),
        ("fast_dllm_v2", "jointthreshold", "block", {}, "cannot predict the first cell of a block again"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(family, policy, cache, settings, message) -> None:
    with pytest.raises((DllmError, PolicyError), match=message):
        DiffusionSampler(model(family), policy, cache, GenerationConfig(**settings))


def test_likelihoods_are_refused() -> None:
    with pytest.raises(DllmError, match="is block-causal: .* likelihoods need a full-attention model"):
        Likelihood(model("sdar"))


@pytest.mark.parametrize(
    "text",
    ["blockquota:steps=0", "blockquota:threshold=0", "jointthreshold:least=0", "jointthreshold:max_post_steps=-1"],
)
def test_parameters_of_the_block_policies_are_checked(text: str) -> None:
    with pytest.raises(PolicyError, match="; give a"):
        DiffusionSampler(model("sdar"), text)
