"""Areas and best points, against published figures."""

from __future__ import annotations

import pytest

from dllm_decode.lab.curves import aup, best_at_loss, curve, pareto


@pytest.mark.parametrize(
    ("points", "y_max", "published"),
    [
        ([(1, 72.5)], 74.98, 72.5),
        ([(1, 74.79), (2.77, 74.68)], 74.98, 205.8),
        ([(1, 74.0), (5.14, 72.63)], 74.98, 358.1),
        ([(1, 74.02), (9.11, 73.09)], 74.98, 637.7),
        ([(1, 32.1), (1.97, 30.82)], 41.15, 47.2),
        ([(1, 32.76), (5.74, 30.36)], 41.15, 107.6),
    ],
    ids=["LLaDA", "Fast-dLLM", "dParallel", "d3LLM", "Fast-dLLM on MATH", "d3LLM on MATH"],
)
def test_published_aup(points, y_max, published):
    assert aup(points, y_max) == pytest.approx(published, abs=0.06)


def test_aup_cuts_what_lost_too_much():
    kept = [(1, 80.0), (2, 79.0)]
    assert aup([*kept, (9, 74.9)], 80) == aup(kept, 80)
    assert aup([*kept, (9, 75.0)], 80) > aup(kept, 80)
    assert aup(kept[::-1], 80) == aup(kept, 80)
    assert aup([(1, 0.0), (3, 0.0)], 0) == 0.0


def row(label, tpf, accuracy):
    return {"label": label, "tpf_content": tpf, "accuracy": accuracy}


ROWS = [row("a", 2.0, 0.80), row("b", 3.0, 0.79), row("c", 4.0, 0.785), row("d", 5.0, 0.60)]


@pytest.mark.parametrize(("points", "label"), [(0, "a"), (1, "b"), (1.5, "c"), (2, "c"), (20, "d")])
def test_best_tpf_at_a_loss(points, label):
    assert best_at_loss(ROWS, 0.80, points)["label"] == label


def test_no_point_may_be_good_enough():
    assert best_at_loss(ROWS, 0.9, 1) is None


def test_pareto_front():
    dominated = row("e", 1.5, 0.80)
    twin = row("f", 2.0, 0.70)
    assert [r["label"] for r in pareto([*ROWS, dominated, twin])] == ["a", "b", "c", "d"]


def test_curve_starts_at_static():
    found = curve(ROWS, row("static", 1.0, 0.80), 0.8)
    assert found["labels"] == ["static", "a", "b", "c", "d"]
    assert found["y_max"] == 80.0
    assert [found["best"][n]["label"] for n in "012"] == ["a", "b", "c"]
    assert found["aup"] == aup([(1, 80.0), (2, 80.0), (3, 79.0), (4, 78.5)], 80.0)
    slow = curve([row("worse", 0.5, 0.1)], row("static", 1.0, 0.8), 0.8)
    assert slow["best"]["2"]["label"] == "static"
