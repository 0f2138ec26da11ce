"""The information-theoretic bound: closed forms, published numbers, brute force."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch

from dllm_decode.errors import DllmError
from dllm_decode.lab.information import information_bounds, loss_of
from dllm_decode.lab.oracles import choose, indep, latin4, replace, shuffle


def compositions(n):
    for cuts in product((False, True), repeat=n - 1):
        sizes, size = [], 1
        for cut in cuts:
            if cut:
                sizes.append(size)
                size = 0
            size += 1
        yield (*sizes, size)


def test_published_numbers():
    by_steps = {b.steps: b for b in information_bounds(shuffle(8))}
    assert by_steps[1].bits == pytest.approx(8.7008, abs=1e-4)
    assert by_steps[4].bits == pytest.approx(1.5146, abs=1e-4)
    assert by_steps[4].split == (3, 2, 2, 1)
    assert by_steps[8].bits == pytest.approx(0, abs=1e-9)
    assert loss_of(shuffle(8), (4, 4)) == pytest.approx(4.7008, abs=1e-4)
    assert loss_of(shuffle(8), (2, 2, 2, 2)) == pytest.approx(1.8707, abs=1e-4)
    assert information_bounds(latin4())[0].bits == pytest.approx(22.8301, abs=1e-4)
    assert information_bounds(choose(4, 6))[0].bits == pytest.approx(10.0)
    assert [b.bits for b in information_bounds(choose(4, 6))[1:]] == pytest.approx([0] * 5, abs=1e-9)
    for n, bits in ((4, 1.2451), (6, 1.3152), (8, 1.3485), (10, 1.3680), (16, 1.3966)):
        assert information_bounds(replace(n))[0].bits == pytest.approx(bits, abs=1e-4)


def test_shuffle_closed_form_of_every_split():
    # L_T = sum_t |S_t| log2 k_t - log2 n!, k_t the cells still open before step t
    n = 6
    for split in compositions(n):
        left = [n - sum(split[:t]) for t in range(len(split))]
        expected = sum(s * math.log2(k) for s, k in zip(split, left, strict=True)) - math.log2(math.factorial(n))
        assert loss_of(shuffle(n), split) == pytest.approx(expected, abs=1e-9)
    pairs = math.log2(math.prod(range(2, n + 1, 2)) / math.prod(range(1, n, 2)))
    assert loss_of(shuffle(n), (2,) * (n // 2)) == pytest.approx(pairs)


@pytest.mark.parametrize("oracle", [shuffle(6), replace(7), choose(3, 5), indep(4, 3)], ids=lambda o: o.name)
def test_bound_is_the_least_over_all_splits(oracle):
    found = information_bounds(oracle)
    for bound in found:
        every = [loss_of(oracle, split) for split in compositions(oracle.length) if len(split) == bound.steps]
        assert bound.exact
        assert bound.bits == pytest.approx(min(every), abs=1e-9)
        assert loss_of(oracle, bound.split) == pytest.approx(bound.bits, abs=1e-9)
    bits = [bound.bits for bound in found]
    assert all(b <= a + 1e-9 for a, b in pairwise(bits))
    assert bits[0] == pytest.approx(oracle.total_correlation, abs=1e-4)
    assert bits[-1] == pytest.approx(0, abs=1e-9)


def test_grids_only_claim_left_to_right():
    assert not any(bound.exact for bound in information_bounds(latin4()))


@pytest.mark.parametrize(("k", "published"), [(1, 1.0), (2, 0.27344), (4, 0.03845), (8, 0.00240)])
def test_shuffle_accuracy_is_two_to_the_minus_loss(k, published):
    # Acc(k) = prod_i P(n - (i-1) k, k) / (n - (i-1) k)^k, sampled from exact marginals
    n = 8
    exact = math.prod(math.perm(left, k) / left**k for left in range(n, 0, -k))
    assert exact == pytest.approx(published, abs=1e-5)
    assert 2 ** -loss_of(shuffle(n), (k,) * (n // k)) == pytest.approx(exact)


def test_replace_in_one_step_by_sampling():
    oracle, n = replace(8), 8
    probability = torch.full((n, n + 1), 0.0)
    probability[:, n] = 1 / n
    probability[range(n), range(n)] = (n - 1) / n
    drawn = torch.multinomial(probability, 40_000, replacement=True, generator=torch.Generator().manual_seed(0)).T
    share = oracle.valid(drawn).float().mean().item()
    assert share == pytest.approx((7 / 8) ** 7, abs=0.01)
    assert information_bounds(oracle)[0].p_valid == pytest.approx((7 / 8) ** 7)


@pytest.mark.parametrize("split", [(), (4,), (0, 6), (3, 3, 3)])
def test_wrong_splits(split):
    with pytest.raises(DllmError, match="is not of shuffle"):
        loss_of(shuffle(6), split)
