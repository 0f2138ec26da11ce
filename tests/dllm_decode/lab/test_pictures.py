"""The data behind the figures, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dllm_decode.lab.pictures import EDGES, draw_pictures, representatives
from dllm_decode.lab.summary import summarise_folder
from tests.dllm_decode.lab.lab_records import write_run
from tests.dllm_decode.lab.lab_toys import made

STATIC = made(label="static", steps=[[[0, 7, 0.9]], [[1, 8, 0.9]], [[2, 9, 0.9]], [[3, 1, 0.9], [4, 1, 0.0]]])


def pictures(*records, pooled=("copy",)):
    return draw_pictures([*records, STATIC], {"copy": 0}, "static", pooled)


def test_commits_are_content_only_and_net_of_revokes():
    # Content is cells 0 to 2. Forward 1: two of them; forward 2: one taken back; forward 3: two, and the tail.
    steps = [[[0, 7, 0.9], [1, 8, 0.9]], [[1, 0, 0.1]], [[1, 8, 0.9], [2, 9, 0.9], [3, 1, 0.9]], [[4, 1, 0.9]]]
    mean = pictures(made(steps=steps)).steps()["threshold", "none", "copy"]
    # Four forwards over ten tenths: the third tenth is half of forward 1, half of forward 2.
    assert mean == pytest.approx([2, 2, 0.5, -1, -1, 2, 2, 1, 0, 0])
    assert np.mean(mean) * len(steps) == pytest.approx(3)  # = content tokens


def test_samples_of_few_forwards_and_of_many_count_alike():
    one = made(steps=[[[0, 7, 0.9], [1, 8, 0.9], [2, 9, 0.9], [3, 1, 0.9]]], sample=1)
    many = made(steps=[[[0, 7, 0.9]], [[1, 8, 0.9]], [[2, 9, 0.9]]], sample=2)
    mean = pictures(one, many).steps()["threshold", "none", "all"]
    assert mean == pytest.approx([2] * 10)


def test_calibration_counts_agreement_by_confidence():
    steps = [
        [[0, 7, 0.55], [1, 5, 0.55], [1, 0, 0.3]],  # right; wrong, then revoked
        [[1, 8, 0.97], [2, 9, 1.0]],
        [[3, 1, 0.999], [4, 1, 0.0]],  # the end token counts; the filled tail does not
    ]
    bins = pictures(made(steps=steps)).calibration()["threshold", "none", "copy"]
    by_edge = {EDGES[i]: one for i, one in enumerate(bins) if one}
    assert {edge: one["n"] for edge, one in by_edge.items()} == {0.5: 2, 0.95: 1, 0.99: 2}
    assert by_edge[0.5]["agreement"] == 0.5
    assert by_edge[0.5]["confidence"] == pytest.approx(0.55)
    assert by_edge[0.5]["low"] < 0.5 < by_edge[0.5]["high"]
    assert by_edge[0.99]["agreement"] == 1


def test_static_is_not_compared_with_itself_nor_with_other_questions():
    found = pictures(made(sample=9), made(cache="dual")).calibration()
    assert found == {}


def test_an_edge_belongs_to_the_upper_bin():
    bins = pictures(made(steps=[[[0, 7, 0.9], [1, 8, 0.5], [2, 9, 0.99]]])).calibration()["threshold", "none", "all"]
    assert [EDGES[i] for i, one in enumerate(bins) if one] == [0.5, 0.9, 0.99]


def test_templates_are_counted_apart():
    found = pictures(made(), made(template=1, correct=0), made(template=1, sample=1)).templates()
    shares = [(one["template"], one["n"], one["accuracy"]) for one in found["threshold", "none", "copy"]]
    assert shares == [(0, 1, 1.0), (1, 2, 0.5)]


def test_tasks_outside_the_pool_are_not_in_all():
    found = pictures(made(), pooled=()).steps()
    assert {task for _, _, task in found} == {"copy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, ("threshold:threshold=0.6", "threshold:threshold=0.9", "factor"), "copy,lines", ("none",), 3)
    return folder, summarise_folder(folder)


def test_one_setting_stands_for_its_family(run):
    _, summary = run
    found = representatives(summary)
    assert set(found) == {("none", task) for task in ("all", "copy", "lines")}
    rows = {(r["label"], r["task"]): r for r in summary["rows"]}
    for (_, task), labels in found.items():
        assert [rows[label, task]["family"] for label in labels] == ["threshold", "factor"]
        base = rows["static", task]["accuracy"]
        for label in labels:
            members = [r for r in summary["rows"] if r["task"] == task and r["family"] == rows[label, task]["family"]]
            near = [r for r in members if r["accuracy"] >= base - 0.01]
            if near:
                assert rows[label, task]["tpf_content"] == max(r["tpf_content"] for r in near)
            else:
                assert rows[label, task]["accuracy"] == max(r["accuracy"] for r in members)


def test_figures_of_a_run_are_json(run):
    assert json.loads(json.dumps(run[1])) == run[1]
