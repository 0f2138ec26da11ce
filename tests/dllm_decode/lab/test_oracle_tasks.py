"""Policies on the exact oracles, against the closed forms and measured figures of ParallelBench's theory."""

from __future__ import annotations

import math

import pytest

from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import plan
from dllm_decode.lab.summary import summarise

SAMPLES = 160
PAIRS = "topk:k=2,score=random"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """P(valid) and TPF by (policy, oracle), sampling at temperature 1, whole canvas open."""
    folder = tmp_path_factory.mktemp("sampled")
    rules = ["topk:k=2", "threshold", "threshold:threshold=0.7", "factor", "frechet", "entropybound:gamma=0.1"]
    found = measure(folder / "a", rules, "oracle-replace-8", 1.0)
    found |= measure(folder / "b", [PAIRS, "threshold", "factor"], "oracle-shuffle-7,oracle-choose-4-6", 1.0)
    return found | measure(folder / "c", ["topk:k=6"], "oracle-indep-6-4", 1.0)


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """The same, greedy."""
    rules = ["topk:k=2", "threshold", "threshold:threshold=0.7", "factor", "frechet"]
    return measure(tmp_path_factory.mktemp("greedy"), rules, "oracle-replace-8", 0.0)


def measure(folder, policies, tasks, temperature):
    setting = plan(
        "none", policies, tasks, samples=SAMPLES, batch_size=SAMPLES, block_length=None, temperature=temperature
    )
    summary = summarise(setting.to_dict(), run(setting, folder, quiet=True))
    return {
        (r["label"], r["task"].removeprefix("oracle-")): (r["accuracy"], r["tpf_content"]) for r in summary["rows"]
    }


def test_static_is_exact_on_every_oracle(sampled, greedy):
    for found in (sampled, greedy):
        assert {v for (label, task), v in found.items() if label == "static"} == {(1.0, 1.0)}


def test_independent_cells_are_right_at_any_speed(sampled):
    assert sampled["topk:k=6", "indep-6-4"] == (1.0, 6.0)


def test_random_pairs_of_a_shuffle_meet_the_closed_form(sampled):
    accuracy, tpf = sampled[PAIRS, "shuffle-7"]
    exact = math.prod(math.perm(left, min(2, left)) / left ** min(2, left) for left in (7, 5, 3, 1))
    assert exact == pytest.approx(0.45714, abs=1e-5)
    assert accuracy == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / SAMPLES))
    assert tpf == 7 / 4


def test_random_pairs_of_choose_meet_the_closed_form(sampled):
    accuracy, tpf = sampled[PAIRS, "choose-4-6"]
    assert accuracy == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / SAMPLES))
    assert tpf == 2.0


@pytest.mark.parametrize(
    ("policy", "task", "accuracy", "tpf"),
    [
        ("threshold", "replace-8", 1.0, 1.0),
        ("threshold:threshold=0.7", "replace-8", 0.60, 4.2),
        ("factor", "replace-8", 1.0, 2.6),
        ("entropybound", "replace-8", 1.0, 1.5),
        ("topk:k=2", "replace-8", 0.58, 2.0),
        ("threshold", "shuffle-7", 1.0, 1.0),
        ("factor", "shuffle-7", 1.0, 1.0),
        ("threshold", "choose-4-6", 1.0, 3.0),
    ],
)
def test_measured_figures_of_sampling(sampled, policy, task, accuracy, tpf):
    """300 runs elsewhere, so both sides scatter: three standard errors of the share, a tenth of the speed."""
    found = sampled[policy, task]
    assert found[0] == pytest.approx(accuracy, abs=0.15 if accuracy < 1 else 1e-9)
    assert found[1] == pytest.approx(tpf, rel=0.1)


@pytest.mark.parametrize(
    ("policy", "accuracy", "tpf"),
    [
        ("threshold", 1.0, 1.0),
        ("threshold:threshold=0.7", 0.0, 8.0),
        ("factor", 1.0, 2.7),
        ("topk:k=2", 0.55, 2.0),
    ],
)
def test_measured_figures_of_greedy_replacement(greedy, policy, accuracy, tpf):
    found = greedy[policy, "replace-8"]
    assert found[0] == pytest.approx(accuracy, abs=0.15 if 0 < accuracy < 1 else 1e-9)
    assert found[1] == pytest.approx(tpf, rel=0.1)


def test_frechet_is_exact_on_replacement(sampled, greedy):
    # With 8 open cells of confidence 7/8, G_n = 7/8 - n/8 exceeds 1/4 up to n = 4: faster than EB, and still right.
    assert sampled["frechet", "replace-8"][0] == greedy["frechet", "replace-8"][0] == 1.0
    assert sampled["frechet", "replace-8"][1] > sampled["entropybound", "replace-8"][1]
