"""The table of docs/policies.md: every policy under its own name, and the markers of the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from dllm_decode.lab.summary import summarise_folder
from scripts import policy_table
from scripts.docs_page import put
from scripts.policy_table import KNOBS, POLICIES, choose, per_task, rows, spelled, table
from tests.dllm_decode.lab.lab_records import write_run
from tests.dllm_decode.lab.lab_toys import made

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_every_policy_has_its_row(tmp_path):
    named = rows({})
    write_run(
        tmp_path, tuple(policy for policy, _ in named.values()), "copy,sort", ("none",), samples=2, templates=(0,)
    )
    summary = summarise_folder(tmp_path)
    names = [*POLICIES, "EGP (oracle)"]
    head, rule, *lines = table(summary, named)
    assert [row.split(" | ")[0] for row in lines] == [f"| {name}" for name in names]
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    for row, (_, claim) in zip(lines, POLICIES.values(), strict=False):
        assert row.endswith(f"| {claim} |")
    by_task = per_task(summary, named, ["copy", "sort"])
    assert by_task[0] == "| policy | copy | sort |"
    assert [row.split(" | ")[0] for row in by_task[2:]] == [f"| {name}" for name in POLICIES]


def test_tuned_values_follow_their_published_rows():
    found = rows({"Threshold 0.9": "threshold:threshold=0.88", "Factor 1": None, "Credit": "credit"})
    names = list(found)
    assert names[names.index("Threshold 0.9") + 1] == "Threshold 0.9, tuned"
    assert found["Threshold 0.9, tuned"][0] == "threshold:threshold=0.88"
    assert "Factor 1, tuned" not in found and found["Factor 1"][1].endswith("(no value tried stays within a point)")
    assert found["Credit"][1].endswith("(tuned: as published)")


def test_the_fastest_that_is_shown_to_lose_at_most_a_point_is_chosen():
    def records(label, forwards, wrong, count=1000):
        return [made(label=label, sample=i, nfe=forwards, correct=i >= wrong) for i in range(count)]

    tried = ["threshold:threshold=0.8", "threshold:threshold=0.88"]
    runs = [*records("static", 20, 0), *records("threshold", 5, 0)]
    runs += [*records(tried[0], 2, 9), *records(tried[1], 3, 2)]
    knobs = {"Threshold 0.9": tried}
    assert choose(runs, knobs) == {
        "Threshold 0.9": tried[1]
    }  # 0.9 points lost are within a point, but not shown to be
    assert choose(runs, knobs, drop=2.0) == {"Threshold 0.9": tried[0]}
    assert choose(runs, {"Factor 1": ["factor:factor=0.5"]}) == {"Factor 1": None}


def test_what_loses_much_on_the_first_problems_is_tried_no_further(tmp_path, monkeypatch):
    losses = {spelled("threshold"): 0, spelled("threshold:threshold=0.8"): 5, spelled("threshold:threshold=0.88"): 0}
    asked = []

    def compare(model, policies, tasks, out, *, first, samples, split, **how):
        assert split == "valid"
        asked.append((first, samples, list(policies)))

    def records(folder):
        first, samples, labels = asked[-1]
        return [
            made(label=label, sample=i, nfe=3 if "0.88" in label else 5, correct=i >= losses.get(label, 0))
            for label in ["static", *labels]
            for i in range(first, first + samples)
        ]

    monkeypatch.setattr(policy_table, "compare", compare)
    monkeypatch.setattr(policy_table, "read_records", records)
    monkeypatch.setattr(
        policy_table, "KNOBS", {"Threshold 0.9": ["threshold:threshold=0.8", "threshold:threshold=0.88"]}
    )
    monkeypatch.setattr(policy_table, "FEW", 40)
    chosen = policy_table.tune_rows("toy", "copy", tmp_path, 1000)
    assert asked == [(0, 40, list(losses)), (40, 960, [text for text, lost in losses.items() if not lost])]
    assert chosen == {"Threshold 0.9": spelled("threshold:threshold=0.88")}


def test_labels_are_unique_knobs_parse_and_the_page_has_its_markers(tmp_path):
    assert len({spelled(policy) for policy, _ in POLICIES.values()}) == len(POLICIES)
    assert set(KNOBS) <= set(POLICIES)
    for tried in KNOBS.values():
        assert len({spelled(policy) for policy in tried}) == len(tried)
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    for name in ("overall", "tasks", "long"):
        put(page, name, [f"new {name}"])
    assert all(f"new {name}" in page.read_text() for name in ("overall", "tasks", "long"))


def test_long_tasks_have_a_section_of_their_own(tmp_path, monkeypatch):
    page, tuned, seen = tmp_path / "page.md", tmp_path / "tuned.json", []
    page.write_text(PAGE.read_text())
    tuned.write_text('{"other": {"Factor 1": "factor:factor=0.5"}}')

    def compare(model, policies, tasks, out, **how):
        seen.append((how["block_length"], how["lenient"], out))
        write_run(out, tuple(policies), tasks, ("none",), samples=1, templates=(0,))
        summary = summarise_folder(out)
        summary["setting"]["model"] = model
        summary["setting"]["left_out"] = [{"label": "pcsampler", "cache": "none", "why": "no table"}]
        return summary

    monkeypatch.setattr(policy_table, "compare", compare)

    def run(tasks, **more):
        given = {"out": None, "samples": 1, "tune": False, "valid_samples": 2, "cache": "none", "block_length": 16}
        how = {"batch_size": 1, "device": None, "processes": 1}
        monkeypatch.chdir(tmp_path)
        policy_table.main(page=page, model="some/where/new", tasks=tasks, tuned=tuned, **{**given, **how, **more})

    before = page.read_text()
    run("trip,story")
    after = page.read_text()
    head, _, rest = before.partition("<!-- long: begin -->")
    assert after.startswith(head) and after.endswith(rest.partition("<!-- long: end -->")[2])
    assert "Model `new`, trip, story: 1 problems" in after
    assert "Left out, for they do not fit this model: PcSampler." in after
    assert "| policy | trip | story |" in after
    assert "Factor 1, tuned" not in after.partition("<!-- long: begin -->")[2]  # that value is another model's
    assert seen == [(16, True, Path("runs/policies-new/test"))]
    with pytest.raises(typer.BadParameter, match="tables of their own"):
        run("copy,trip")
    run("copy", tune=True, out=tmp_path / "mine")
    assert "| policy | copy |" in page.read_text() and "| policy | trip | story |" in page.read_text()
    assert set(policy_table.read_tuned(tuned)) == {"other", "new"}
