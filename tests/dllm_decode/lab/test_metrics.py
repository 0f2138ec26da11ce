"""Figures of a set of samples, against hand-computed values and SciPy's own definitions."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dllm_decode.lab.metrics import (
    arness,
    best_per_sample,
    by_template,
    figures,
    mcnemar,
    paired,
    qps,
    ratio_interval,
    wilson,
)
from tests.dllm_decode.lab.lab_toys import made


def right(*correct: int, **changes):
    return [made(sample=i, correct=c, **changes) for i, c in enumerate(correct)]


def test_wilson_by_its_formula():
    for k, n in ((0, 10), (7, 10), (95, 100), (10, 10)):
        z, p = stats.norm.ppf(0.975), k / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert wilson(k, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-12)


def test_mcnemar_is_the_exact_binomial_tail():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5)
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)


def test_paired_difference_counts_what_changed_sides():
    found = paired(right(1, 1, 0, 0, 1, 0), right(1, 0, 1, 1, 1, 0))
    assert (found["gained"], found["lost"]) == (1, 2)
    assert found["difference"] == pytest.approx(-1 / 6)
    assert found["mcnemar_p"] == 1.0
    assert found["difference_low"] < -1 / 6 < found["difference_high"]


def test_bootstrap_interval_agrees_with_the_normal_one():
    rng = np.random.default_rng(3)
    values = rng.integers(-1, 2, 400).astype(float)
    low, high = ratio_interval(values, np.ones(400), range(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)
    assert (low, high) == ratio_interval(values, np.ones(400), range(400)), "the seed is fixed"


def test_bootstrap_draws_the_wordings_of_a_problem_together():
    values = np.repeat([1.0, 0.0, 0.0, 1.0], 3)  # three wordings that always agree: four facts, not twelve
    together = ratio_interval(values, np.ones(12), np.repeat(range(4), 3))
    apart = ratio_interval(values, np.ones(12), range(12))
    assert together[1] - together[0] > apart[1] - apart[0]
    assert ratio_interval(values, np.ones(12), [0] * 12) == (None, None)


def test_token_counts_are_never_mixed():
    short = made(nfe=3, n_content=3, n_until_eos=4, n_canvas=5, nfe_content=2, rows_forwarded=6, tokens_forwarded=30)
    long = made(
        sample=1,
        nfe=1,
        n_content=5,
        n_until_eos=5,
        n_canvas=5,
        nfe_content=1,
        rows_forwarded=2,
        tokens_forwarded=10,
        tokens=[7, 8, 9, 7, 8],
        steps=[[[i, 7, 0.9] for i in range(5)]],
    )
    static = [made(nfe=5), made(sample=1, nfe=7, correct=0)]
    found = figures([short, long], static)
    assert found["tpf_content"] == 8 / 4
    assert found["tpf_content_mean"] == (3 / 3 + 5 / 1) / 2
    assert found["tpf_until_eos"] == 9 / 4
    assert found["tpf_canvas"] == 10 / 4
    assert found["tpf_without_tail"] == 8 / 3
    assert found["row_tpf"] == 1.0
    assert found["token_efficiency"] == 8 / 40
    assert found["nfe"] == 2.0
    assert found["nfe_content"] == 1.5
    assert found["speedup"] == 12 / 4
    assert found["qps"] == 3 * (1 / 0.5) ** 4
    assert found["identity"] == 0.5
    assert found["tokens_per_s"] == 8.0
    assert found["latency_p50"] == 1.0, "a row waits for its whole batch"


def test_static_against_itself():
    records = right(1, 0, 1)
    found = figures(records, records)
    assert (found["difference"], found["mcnemar_p"], found["identity"], found["speedup"]) == (0.0, 1.0, 1.0, 1.0)
    assert found["qps"] == 1.0
    assert figures(right(0, 0), right(0, 0))["qps"] is None


def test_strict_also_wants_a_clean_tail():
    found = figures([made(), made(sample=1, strict=0), made(sample=2, correct=0)], right(1, 1, 1))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["strict"] == pytest.approx(1 / 3)


def test_identity_ends_with_the_text():
    other_tail = made(tokens=[7, 8, 9, 1, 4])
    assert figures([other_tail], [made()])["identity"] == 1.0
    assert figures([made(tokens=[7, 8, 8, 1, 1])], [made()])["identity"] == 0.0


def test_published_qps():
    assert qps(4.48, 57.59, 58.20) == pytest.approx(4.295, abs=1e-3)


def ordered(order):
    return made(
        n_canvas=len(order), n_until_eos=len(order), steps=[[[c, 7, 0.9] for c in cells] for cells in steps_of(order)]
    )


def steps_of(order):
    return [[cell for cell, at in enumerate(order) if at == step] for step in range(max(order) + 1)]


def test_order_of_small_canvases():
    assert arness(ordered([0, 1, 2, 3])) == pytest.approx((1.0, 1.0))
    assert arness(ordered([3, 2, 1, 0])) == pytest.approx((-1.0, -1.0))
    assert arness(ordered([0, 0, 0])) == (None, None)
    for order in permutations(range(4)):
        assert arness(ordered(order))[0] == pytest.approx(stats.kendalltau(range(4), order).statistic)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1))
def test_order_agrees_with_scipy(order):
    tau, rho = arness(ordered(order))
    assert tau == pytest.approx(stats.kendalltau(range(len(order)), order).statistic)
    assert rho == pytest.approx(stats.spearmanr(range(len(order)), order).statistic)


def test_order_counts_the_last_commit_and_stops_at_the_end_token():
    revoked = made(steps=[[[0, 7, 0.9], [3, 1, 0.9]], [[0, 0, 0.1], [1, 8, 0.9]], [[2, 9, 0.9]], [[0, 7, 0.9]]])
    assert arness(revoked)[0] == pytest.approx(stats.kendalltau(range(4), [3, 1, 2, 0]).statistic)


def test_order_leaves_out_what_was_cut_with_the_canvas():
    cut = made(n_canvas=3, n_until_eos=3, steps=[[[4, 7, 0.9], [0, 7, 0.9]], [[2, 7, 0.9]], [[1, 7, 0.9]]])
    assert arness(cut) == pytest.approx(arness(ordered([0, 2, 1])))


def test_template_spread():
    records = [made(template=t, correct=c) for t, c in ((0, 1), (0, 1), (1, 1), (1, 0), (2, 0))]
    assert by_template(records) == {"template_accuracy": {"0": 1.0, "1": 0.5, "2": 0.0}, "template_spread": 1.0}
    assert by_template(records[:2])["template_spread"] is None


def test_best_per_sample_prefers_right_then_cheap():
    careful = [made(nfe=9, correct=1), made(nfe=9, correct=1), made(nfe=9, correct=0)]
    hasty = [made(nfe=2, correct=0), made(nfe=2, correct=1), made(nfe=2, correct=0)]
    assert [r["nfe"] for r in best_per_sample([careful, hasty])] == [9, 2, 2]
