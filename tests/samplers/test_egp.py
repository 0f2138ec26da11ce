"""EGP, the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from samplers import EGP, AdaBlock, PolicyError, Threshold, parse_policy, spell
from scripts.random_models import BLOCK_FAMILIES, known_model
from tests.toys import FAMILIES, MASK, commits, decode, scene, tiny

STATIC = Threshold(2.0)
PROMPTS = [[1], [2, 3, 4, 5], [7, 8], [9, 1]]


def test_commits_what_is_right_and_nothing_else() -> None:
    view, prediction = scene([[0.9, 0.1, 0.5, None]], tokens=[[4, 5, 6, 7]])
    policy = EGP(((4, 9, 6, 7),))
    decision, memory = policy.decide(view, prediction, policy.begin(view))
    assert decision.write[0].tolist() == [True, False, True, False]
    assert decision.values[decision.write].tolist() == [4, 6]
    # A forward that proposes the same again: nothing will ever change, so the block is filled.
    view, again = scene([[None, 0.1, None, None]], tokens=[[4, 5, 6, 7]], block_step=1)
    decision, _ = policy.decide(view, replace(again, token=prediction.token), memory)
    assert decision.write[0].tolist() == [False, True, False, False]
    assert decision.values[decision.write].tolist() == [9]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_reproduces_the_reference_in_no_more_forwards(family: str, cache: str) -> None:
    settings = {"max_new_tokens": 16, "block_length": 8}
    static = decode(tiny(family), STATIC, PROMPTS, cache, **settings)
    oracle = decode(tiny(family), EGP(tuple(map(tuple, static.sequences))), PROMPTS, cache, **settings)
    assert oracle.sequences == static.sequences
    assert all(mine <= theirs for mine, theirs in zip(oracle.nfe, static.nfe, strict=True))
    for row, prompt in enumerate(PROMPTS):
        alone = decode(tiny(family), EGP((tuple(static.sequences[row]),)), [prompt], cache, **settings)
        assert commits(alone) == commits(oracle, row)


def test_any_reference_is_reached() -> None:
    """Also one that the model would never write, in blocks of any length, in rows of their own."""
    reference = tuple(tuple((row + 3 * cell) % (MASK - 1) for cell in range(16)) for row in range(4))
    for policy in (EGP(reference), AdaBlock((3, 4, 5), 0.02, 5) | EGP(reference)):
        result = decode(tiny("llada"), policy, PROMPTS, max_new_tokens=16, block_length=8)
        assert tuple(map(tuple, result.sequences)) == reference
        # at worst every commit waits for a forward that repeats the one before it
        assert all(n <= 2 * 16 for n in result.nfe)


@pytest.mark.parametrize("family", BLOCK_FAMILIES)
@pytest.mark.parametrize("cache", ["none", "block"])
def test_a_block_that_goes_on_behind_the_row(family: str, cache: str) -> None:
    """Cells that nobody asked for have no reference, and a first cell that is proposed once gets no second chance."""
    reference = tuple(tuple((row + 3 * cell) % 30 for cell in range(9)) for row in range(4))
    model = known_model(family, 40, 64, eos=38)
    result = decode(model, EGP(reference), PROMPTS, cache, max_new_tokens=9, block_length=4)
    assert tuple(map(tuple, result.sequences)) == reference
    assert all(n <= 2 * 12 for n in result.nfe)


def test_refuses() -> None:
    with pytest.raises(PolicyError, match="EGP needs the outputs to aim at"):
        decode(tiny("llada"), "egp", [[1]], max_new_tokens=4)
    with pytest.raises(PolicyError, match="EGP has 1 reference rows, but none for prompt 1"):
        decode(tiny("llada"), EGP(((1, 2),)), [[1], [2]], max_new_tokens=2)
    with pytest.raises(PolicyError, match="EGP's reference 0 has 2 tokens, but 4 cells are to be decoded"):
        decode(tiny("llada"), EGP(((1, 2),)), [[1]], max_new_tokens=4)
    with pytest.raises(PolicyError, match="temperature is 0.7, set it to 0"):
        decode(tiny("llada"), EGP(((1, 2),)), [[1]], max_new_tokens=2, temperature=0.7)


def test_its_reference_is_no_setting() -> None:
    assert spell(EGP(((1, 2),))) == "egp" and parse_policy("egp") == EGP()
    assert "1, 2" not in repr(EGP(((1, 2),)))
