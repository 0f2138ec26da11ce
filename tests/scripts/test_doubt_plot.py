"""Doubt against right fills: what is counted, and that it is drawn."""

from __future__ import annotations

import pytest

from dllm_decode.models import load_model
from scripts import doubt_plot
from scripts.doubt_plot import DECIDERS, EDGES, draw, measure
from tests.dllm_decode.lab.lab_records import write_run


def test_every_forward_of_every_row_is_one_fill(tmp_path):
    bins = measure(load_model("tiny"), "topk:k=1", ["copy"], count=3)
    assert len(bins) == len(EDGES) - 1
    assert all(0 <= right <= count for right, count in bins)
    assert 3 <= sum(count for _, count in bins) <= 3 * 32
    assert bins[0][1] > 0 and bins[0][0] == bins[0][1]  # copying is sure and right from the first forward on
    draw({name: bins for name in DECIDERS}, tmp_path / "doubt.png")
    assert (tmp_path / "doubt.png").stat().st_size > 10_000


def test_what_the_exit_saves_and_loses(tmp_path, monkeypatch):
    page, seen = tmp_path / "page.md", []
    page.write_text("<!-- doubt bar: begin -->\n<!-- doubt bar: end -->\n")

    def compare(model, policies, tasks, folder, *, caches, samples, **how):
        seen.append((how["block_length"], samples))
        write_run(folder, tuple(policies), tasks, caches, samples=samples, templates=(0,))

    monkeypatch.setattr(doubt_plot, "compare", compare)
    doubt_plot.bar("tiny", "copy,sort", 3, tmp_path / "run", page)
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    assert seen == [(16, 3)]
    found = [(row[0].strip("| `"), row[1], row[2]) for row in rows]
    assert found == [(decider, cache, "6") for cache in ("none", "dual") for decider in ("topk:k=1", "threshold")]
    for row in rows:  # lost and saved are those of the columns beside them
        lost, saved = float(row[5].split()[0]), float(row[8])
        assert lost == pytest.approx(float(row[3]) - float(row[4]), abs=0.02)
        assert saved == pytest.approx(100 * (1 - float(row[7]) / float(row[6])), abs=0.5)
        assert (row[9] == "met |") == (lost <= 0.5 and saved >= 5)
