"""Monte-Carlo log-likelihoods against sums over all mask sets, and stop strings against whole runs."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
import torch

from dllm_decode import CallableModel, DiffusionSampler, DllmError, GenerationConfig
from dllm_decode.harness.likelihood import Likelihood, decodes_to, mask_sets
from dllm_decode.models import ForwardInput
from samplers import Composition, PolicyError, parse_policy
from samplers.stop_strings import StopStrings, first_stop
from tests.dllm_decode.answering import answering, codec
from tests.toys import FAMILIES, MASK, tiny

PREFIX, TARGET = [3, 1, 4, 1, 5], [9, 2, 6]


def log_probs(model, ids):
    """Of every slot, ``[N, V]``, the shift applied, one plain row."""
    n = len(ids)
    row = ForwardInput(torch.tensor([ids]), torch.arange(n)[None], torch.tensor([n]), torch.tensor([n]))
    out = model.head(model.hidden(row, torch.arange(n))).log_softmax(-1)
    return torch.cat([out[:1], out[:-1]]) if model.shift else out


def by_hand(model, prefix, target, guidance=0.0):
    """The mean over all mask sets, forward by forward."""
    size, total = len(target), 0.0
    for masks in range(1, size + 1):
        for chosen in combinations(range(size), masks):
            noised = [MASK if i in chosen else t for i, t in enumerate(target)]
            found = log_probs(model, [*prefix, *noised])
            if guidance:
                free = log_probs(model, [*[MASK] * len(prefix), *noised])
                found = (free + (guidance + 1) * (found - free)).log_softmax(-1)
            inner = sum(float(found[len(prefix) + i, target[i]]) for i in chosen)
            total += size / masks * inner / (size * comb(size, masks))
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("prefix", "target"), [(PREFIX, TARGET), ([], [7, 8]), (PREFIX, [2])])
@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_few_tokens_are_summed_exactly(family, prefix, target, guidance):
    model = tiny(family)
    (found,) = Likelihood(model, mc_num=7, batch_size=3, guidance=guidance).estimate([(prefix, target)])
    assert found == pytest.approx(by_hand(model, prefix, target, guidance), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_over_seeds_is_the_exact_sum(family):
    model, target = tiny(family), [9, 2, 6, 5, 3]
    exact = Likelihood(model, mc_num=31).estimate([(PREFIX, target)])[0]
    drawn = torch.tensor([Likelihood(model, mc_num=2, seed=s).estimate([(PREFIX, target)])[0] for s in range(200)])
    error = drawn.std() / len(drawn) ** 0.5
    assert drawn.std() > 0.1
    assert abs(float(drawn.mean()) - exact) < 4 * float(error)


def test_one_token_costs_one_forward_whatever_mc_num():
    calls = []
    model = CallableModel(lambda ids: (calls.append(ids), torch.zeros(*ids.shape, 8))[1], mask_id=7, vocab_size=8)
    assert Likelihood(model).estimate([([1, 2], [3])]) == [pytest.approx(-torch.tensor(8.0).log().item())]
    assert len(calls) == 1 and calls[0].tolist() == [[1, 2, 7]]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 7), (3, 5), (6, 4), (9, 128), (128, 3)])
def test_mask_sets(length, count):
    """With equal terms every single draw is exact; numbers of masks are spread over 1..L."""
    generator = torch.Generator().manual_seed(1)
    masked, weights = mask_sets(length, count, generator)
    sizes = masked.sum(-1)
    assert len(masked) <= count and int(sizes.min()) >= 1
    assert float(weights @ sizes.double()) == pytest.approx(length)
    if len(masked) == count and 2**length - 1 > count:
        low, high = count // length, -(-count // length)
        seen = torch.bincount(sizes, minlength=length + 1)[1:]
        assert low - 1 <= int(seen.min()) and int(seen.max()) <= high + 1


def test_every_number_of_masks_is_equally_likely():
    """LLaDA's rounding prefers even numbers when L/n ends in one half; here it must not."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.cat([mask_sets(5, 2, generator)[0].sum(-1) for _ in range(5000)])
    counts = torch.bincount(sizes, minlength=6)[1:].double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 20  # chi-square with 4 degrees: p < 0.0005


def test_estimates_do_not_depend_on_batch_order_or_company():
    model = tiny("llada")
    pairs = [(PREFIX[:n], TARGET * 2) for n in range(5)] + [(PREFIX, []), ([], TARGET), (PREFIX, TARGET)]
    done = {}
    together = Likelihood(model, mc_num=6, batch_size=4).estimate(pairs, done.__setitem__)
    assert done == dict(enumerate(together)) and together[5] == 0
    for order in (range(len(pairs)), reversed(range(len(pairs)))):
        for i in order:
            (alone,) = Likelihood(model, mc_num=6, batch_size=5).estimate([pairs[i]])
            assert alone == pytest.approx(together[i], abs=1e-4)


def test_what_cannot_be_estimated_is_refused():
    model = CallableModel(lambda ids: torch.zeros(*ids.shape, 8), mask_id=7, vocab_size=8, max_length=4)
    with pytest.raises(DllmError, match="3 \\+ 2 tokens are to be scored, but callable was made for 4"):
        Likelihood(model).estimate([([1, 2, 3], [4, 5])])
    with pytest.raises(DllmError, match="holds the mask token 7"):
        Likelihood(model).estimate([([1], [7])])
    with pytest.raises(DllmError, match="mc_num is 0; give a whole number from 1 up"):
        Likelihood(model, mc_num=0)


def test_decodes_to_is_static_decoding():
    model = answering({"left": " a b c", "right": " d e"})
    prefix = {text: codec().encode_prompt(text) for text in ("left", "right")}
    asked = [
        ("left", " a b c"),
        ("left", " a b"),
        ("left", " a c"),
        ("right", " d e"),
        ("right", " a b"),
        ("left", ""),
    ]
    pairs = [(prefix[text], codec().encode(target)) for text, target in asked]
    config = GenerationConfig(temperature=1.0, top_k=3)
    assert decodes_to(model, pairs, 2, config, start_id=2) == [True, True, False, True, False, True]


def test_first_stop():
    assert first_stop("one two three", ["three", "two", ""]) == 4
    assert first_stop("one two three", ["four"]) is None


POLICIES = [
    "topk:k=2",
    "threshold:threshold=0.3",
    "entropybound:gamma=1.0",
    "localleap:anchor_threshold=0.5,relaxed_threshold=0.2",
    "freedave:step=(topk:k=1),drafts=3",
    "adablock:delimiters=5+threshold:threshold=0.3",
    "ccd",
]


def spelled(ids: list[int]) -> str:
    return "".join(f"<{i}>" for i in ids)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_stopped_row_has_the_text_of_a_whole_run_before_the_string(policy, cache):
    model, prompts = tiny("llada"), [[1, 2, 3], [4], [5, 6]]
    config = GenerationConfig(max_new_tokens=16, block_length=4, early_stop=False)
    whole = DiffusionSampler(model, policy, cache, config).generate(prompts)
    words = (f"<{whole.sequences[0][5]}>", f"<{whole.sequences[1][9]}><{whole.sequences[1][10]}>")
    stopper = Composition.of(parse_policy(policy), StopStrings(words, spelled))
    stopped = DiffusionSampler(model, stopper, cache, config).generate(prompts)
    cut = 0
    for full, short, before, after in zip(whole.sequences, stopped.sequences, whole.nfe, stopped.nfe, strict=True):
        end = first_stop(spelled(full), words)
        assert spelled(short)[:end] == spelled(full)[:end]
        assert first_stop(spelled(short), words) == end and after <= before
        cut += end is not None and after < before
    assert cut > 0


def test_beside_a_revising_part_only_finished_blocks_count():
    model, config = tiny("llada"), GenerationConfig(max_new_tokens=16, block_length=4, early_stop=False)
    at_once = "threshold:threshold=0.000001"
    whole = DiffusionSampler(model, at_once, config=config).generate([[1, 2]]).sequences[0]
    for blocks_only, forwards in ((False, 1), (True, 2)):
        stop = StopStrings((f"<{whole[3]}>",), spelled, blocks_only=blocks_only)
        found = DiffusionSampler(model, Composition.of(parse_policy(at_once), stop), config=config).generate([[1, 2]])
        assert found.sequences[0] == whole[:4] and found.nfe == [forwards]


def test_stop_strings_are_checked():
    for bad, allowed in (((), "one or more texts"), (("",), "one or more texts"), (("a", 3), "several of: text")):
        with pytest.raises(PolicyError, match=f"^strings is .*; give {allowed}"):
            StopStrings(bad, spelled)
    assert StopStrings("abc", spelled).strings == ("abc",)  # one text, not three
