"""Decoding exact denoisers: what a policy gets wrong, and how many forwards it takes, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode import DiffusionSampler, GenerationResult
from dllm_decode.lab.oracles import Oracle, choose, indep, latin4, replace, shuffle, sudoku4
from tests.toys import FAMILIES, commits, decode, tiny


def solve(oracle: Oracle, policy: str, rows: int, temperature: float = 0.0, seed: int = 0) -> tuple[float, list[int]]:
    """Share of valid rows among many decoded in one block, and the rows' forwards."""
    result = decode(
        oracle,
        policy,
        [[0]] * rows,
        max_new_tokens=oracle.length,
        block_length=None,
        temperature=temperature,
        seed=seed,
    )
    return float(oracle.valid(torch.tensor(result.sequences)).double().mean()), result.nfe


def assert_share(share: float, expected: float, rows: int) -> None:
    """Within four standard errors of a binomial share."""
    assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / rows) + 1e-12


def shuffle_share(n: int, k: int) -> float:
    """Chance that k random cells per forward give a permutation: no two of a forward may draw the same symbol."""
    share, left = 1.0, n
    while left > 0:
        now = min(k, left)
        share *= math.perm(left, now) / left**now
        left -= now
    return share


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (6, 3), (5, 5), (5, 2)])
def test_shuffle_with_k_random_cells(n: int, k: int) -> None:
    """Greedy with random ties."""
    rows = 1500 if k > 1 else 100
    share, forwards = solve(shuffle(n, random_ties=True, seed=k), f"topk:k={k},score=random", rows)
    assert set(forwards) == {-(-n // k)}
    assert_share(share, shuffle_share(n, k), rows)


def test_shuffle_sampled() -> None:
    """The closed form holds for sampling at temperature 1 too: each row draws from its own generator."""
    rows = 500
    share, _ = solve(shuffle(6), "topk:k=2,score=random", rows, temperature=1.0)
    assert_share(share, shuffle_share(6, 2), rows)


def test_closed_form_of_the_literature() -> None:
    """The values that the specification lists for n = 8."""
    assert [shuffle_share(8, k) for k in (1, 2, 4, 8)] == pytest.approx([1, 0.27344, 0.03845, 0.00240], abs=5e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("oracle", "policy", "forwards"),
    [
        # shuffle: every symbol left is equally likely, so nothing passes before the last cell
        (shuffle(5, random_ties=True), "threshold:threshold=0.9", 5),
        (shuffle(5, random_ties=True), "factor", 5),
        (shuffle(5, random_ties=True), "frechet:margin=0.25", 5),
        (shuffle(5, random_ties=True), "entropybound:gamma=0.5", 5),
        # choose: the first cell decides all others
        (choose(4, 6, random_ties=True), "threshold:threshold=0.9", 2),
        (choose(4, 6, random_ties=True), "factor", 2),
        (choose(4, 6, random_ties=True), "frechet:margin=0.25", 2),
        (choose(4, 6, random_ties=True), "entropybound:gamma=0.1", 2),
    ],
)
def test_cautious_rules_are_exact(oracle: Oracle, policy: str, forwards: int, temperature: float) -> None:
    share, taken = solve(oracle, policy, 60, temperature)
    assert share == 1 and set(taken) == {forwards}


@pytest.mark.parametrize(
    ("policy", "forwards"),
    [
        # m cells left: each keeps its symbol with (m - 1) / m, and greedy decoding believes that of all of them
        ("topk:k=1", 8),
        ("threshold:threshold=0.9", 8),
        ("factor:factor=0.95", 3),  # (n + 1) / m <= 0.95: 6 of 8, then 1, 1
        ("frechet:margin=0.3", 5),  # (m - 1 - n) / m > 0.3: 4 of 8, then 1, 1, 1, 1
        ("entropybound:gamma=0.1", 8),
        ("entropybound:gamma=0.5", 6),  # H = 0.38, 0.45, ...: 2, 2, 1, 1, 1, 1
        ("entropybound:gamma=1.5", 3),  # 4 of 8 (H = 0.38), 3 of 4 (0.56), 1
    ],
)
def test_replace_is_exact_under_rules_that_leave_one(policy: str, forwards: int) -> None:
    share, taken = solve(replace(8, random_ties=True), policy, 80)
    assert share == 1 and set(taken) == {forwards}


def test_replace_fails_as_it_must() -> None:
    """Greedy: a threshold below 7/8 keeps all eight symbols at once; two cells per forward are right half the time."""
    share, taken = solve(replace(8, random_ties=True), "threshold:threshold=0.7", 80)
    assert share == 0 and set(taken) == {1}
    assert solve(replace(8, random_ties=True), "topk:k=4", 80)[0] == 0
    rows = 1500
    assert_share(solve(replace(8, random_ties=True), "topk:k=2", rows)[0], 0.5, rows)
    # sampled in one forward: exactly one of eight changes with probability 8 * 1/8 * (7/8)^7
    rows = 600
    assert_share(solve(replace(8), "topk:k=8", rows, temperature=1.0)[0], (7 / 8) ** 7, rows)


def test_choose_with_two_random_cells() -> None:
    """The first two agree in a quarter of the runs; all else follows."""
    rows = 1500
    share, _ = solve(choose(4, 6, random_ties=True), "topk:k=2,score=random", rows)
    assert_share(share, 0.25, rows)


@pytest.mark.parametrize(
    "policy", ["topk:k=8", "threshold:threshold=0.9", "factor", "frechet", "entropybound:gamma=0.001"]
)
def test_certain_sets_take_one_forward(policy: str) -> None:
    """C = 0 and every cell certain (copying): exact in a single forward, whatever the rule."""
    only = Oracle("copy", torch.tensor([[3, 1, 4, 1, 5, 0, 2, 6]]), 7, False, 0)
    assert solve(only, policy, 3) == (1.0, [1, 1, 1])
    unique = sudoku4("12343412214343..")
    assert unique.total_correlation == pytest.approx(0)
    share, taken = solve(unique, policy.replace("k=8", "k=16"), 2)
    assert share == 1 and set(taken) == {1}


def test_independent_cells_may_be_drawn_together() -> None:
    """C = 0: one forward or four, the strings are uniform over all 16 (chi-square, 99.9 %)."""
    rows = 480
    for policy, forwards in (("topk:k=4", 1), ("topk:k=1,score=random", 4)):
        oracle = indep(4, 2)
        result = decode(oracle, policy, [[0]] * rows, max_new_tokens=4, block_length=None, temperature=1.0)
        assert set(result.nfe) == {forwards}
        index = torch.tensor(result.sequences) @ torch.tensor([8, 4, 2, 1])
        counts = torch.bincount(index, minlength=16).double()
        assert float(((counts - rows / 16) ** 2 / (rows / 16)).sum()) < 37.7


@pytest.mark.parametrize("policy", ["threshold:threshold=0.9", "threshold:threshold=0.6", "factor", "frechet"])
def test_latin_squares_are_exact_under_cautious_rules(policy: str) -> None:
    share, taken = solve(latin4(random_ties=True), policy, 40)
    assert share == 1
    assert all(forwards < 16 for forwards in taken)  # rows and columns complete each other


def runs_alike(left: GenerationResult, right: GenerationResult) -> bool:
    """Same tokens, forwards and commits."""
    rows = range(len(left.sequences))
    return left.sequences == right.sequences and all(commits(left, i) == commits(right, i) for i in rows)


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("policy", "static"),
    [
        ("threshold:threshold=1.01", "topk:k=1"),
        ("factor:factor=1e-6", "topk:k=1"),
        ("frechet:margin=1", "topk:k=1"),
        ("entropybound:gamma=0", "topk:k=1,score=entropy"),
    ],
)
def test_the_cautious_end_of_every_rule_is_static_decoding(family: str, cache: str, policy: str, static: str) -> None:
    setting = {"max_new_tokens": 8, "block_length": 5}
    prompts = [[1, 2, 3], [4]]
    rule = decode(tiny(family), policy, prompts, cache, **setting)
    assert runs_alike(rule, decode(tiny(family), static, prompts, cache, **setting))
    assert rule.nfe == [8, 8]


@pytest.mark.parametrize("policy", ["threshold:threshold=1e-9", "factor:factor=1e9", "entropybound:gamma=1e9"])
def test_the_bold_end_takes_the_block_at_once(policy: str) -> None:
    assert decode(tiny("llada"), policy, [[1, 2, 3]], max_new_tokens=8, block_length=4).nfe == [2]


@settings(max_examples=12)
@given(st.integers(0, 2), st.sampled_from(FAMILIES), st.sampled_from([0.5, 0.75, 1.0, 1.5]))
def test_factor_commits_lie_inside_frechet_commits(seed: int, family: str, factor: float) -> None:
    """From the same canvas; Frechet at margin 1 - factor (a hair less: its inequality is strict)."""
    few, many = (
        next(DiffusionSampler(tiny(family, seed), policy).stream([1, seed, 2], max_new_tokens=10)).cells
        for policy in (f"factor:factor={factor}", f"frechet:margin={1 - factor - 1e-5}")
    )
    assert many[: len(few)] == few
