"""The pictures of a comparison as PNG files."""

from __future__ import annotations

import importlib.util

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.lab.summary import summarise_folder
from scripts.frontier import SIZE, coincident, draw_frontier, front_families, picture_name
from scripts.plots import new_figure, write_plots
from tests.dllm_decode.lab.lab_records import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, ("threshold:threshold=0.6", "threshold:threshold=0.9", "factor"), "copy,lines", ("none",), 3)
    return folder, summarise_folder(folder)


def test_plots(run):
    pytest.importorskip("matplotlib", reason="the plots extra is not installed")
    folder, summary = run
    written = write_plots(folder, summary)
    names = ["frontier", "tasks", "heat", "steps", "calibration"]
    assert [path.name for path in written] == [f"{name}-none.png" for name in names]
    for path in written:
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        assert width > 600 and height > 300


def crowded_summary():
    """Made-up figures: a crowd near the front, two settings at the very same place, one far off, all-grey families."""
    rows = []

    def add(label, family, tpf, accuracy, **knob):
        row = {"label": label, "family": family, "knob": knob, "cache": "none", "task": "all", "tpf_content": tpf}
        row |= {"accuracy": accuracy, "accuracy_low": accuracy - 0.01, "accuracy_high": min(1.0, accuracy + 0.01)}
        rows.append({**row, "kind": "static" if label == "static" else "policy"})

    add("static", "static", 0.6, 0.999)
    for i in range(6):
        add(f"a{i}", "threshold", 3.5 + 0.3 * i, 0.995 - 0.012 * i, threshold=0.97 - 0.05 * i)
        add(f"b{i}", "a+long+name+of+a+family", 3.45 + 0.3 * i, 0.99 - 0.012 * i, gamma=i)
    add("c", "threshold+sched", 14, 0.56)
    add("d", "threshold+prophet", 14, 0.56)
    add("e", "topk", 1.3, 0.8)
    add("nothing", "eotp", None, 0.1)
    bounds = [{**rows[0], "name": "egp", "family": None, "tpf_content": 7.0}]
    return {"rows": rows, "bounds": bounds, "curves": [], "information": []}


def test_the_frontier_shows_what_counts_and_no_label_hides_another():
    pytest.importorskip("matplotlib", reason="the plots extra is not installed")
    summary = crowded_summary()
    families = front_families(summary, "none")
    assert families[-1] == "threshold" and "topk" not in families and "a+long+name+of+a+family" not in families
    assert [len(place) for place in coincident(summary["rows"])].count(2) == 1
    figure = new_figure(*SIZE)
    draw_frontier(figure, summary, "none", {f: {"color": f"C{i}", "marker": "o"} for i, f in enumerate(families)})
    figure.draw_without_rendering()
    labels = [label for axes in figure.axes for label in axes.texts]
    said = {label.get_text() for label in labels}
    assert {"static", "EGP (bound)", "threshold+sched =\nthreshold+prophet", "threshold 0.97", "topk"} <= said
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    for axes in figure.axes:
        assert all(
            axes.bbox.contains(*corner) for label in axes.texts for corner in label.get_window_extent().get_points()
        )


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ("threshold 0.9", "threshold 0.9"),
        ("topk:k=2,score=random", "topk 2 random"),
        ("threshold+doubtexit:doubtexit.eps=0.2", "threshold+doubtexit 0.2"),
        (
            "freedave:step=(contentfirst:step=(threshold:threshold=0.92)),drafts=8,cross_block=true+doubtexit:eps=0.2",
            "freedave(contentfirst(\nthreshold 0.92)) 8 across+\ndoubtexit 0.2",
        ),
    ],
)
def test_long_policies_have_names_of_some_lines(policy, shown):
    assert picture_name(policy) == shown
    assert max(map(len, shown.split("\n"))) <= 26


def test_plots_without_matplotlib_say_what_to_install(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    with pytest.raises(DllmError, match="plots extra|matplotlib, which is not installed"):
        write_plots(run[0], run[1])
