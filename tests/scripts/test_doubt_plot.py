"""Doubt against right fills: what is counted, and that it is drawn."""

from __future__ import annotations

from dllm_decode.models import load_model
from scripts.doubt_plot import DECIDERS, EDGES, draw, measure


def test_every_forward_of_every_row_is_one_fill(tmp_path):
    bins = measure(load_model("tiny"), "topk:k=1", ["copy"], count=3)
    assert len(bins) == len(EDGES) - 1
    assert all(0 <= right <= count for right, count in bins)
    assert 3 <= sum(count for _, count in bins) <= 3 * 32
    assert bins[0][1] > 0 and bins[0][0] == bins[0][1]  # copying is sure and right from the first forward on
    draw({name: bins for name in DECIDERS}, tmp_path / "doubt.png")
    assert (tmp_path / "doubt.png").stat().st_size > 10_000
