"""The table of docs/policies.md: every policy under its own name, and the markers of the page."""

from __future__ import annotations

from pathlib import Path

from dllm_decode.lab.summary import summarise_folder
from scripts.docs_page import put
from scripts.policy_table import LABELS, POLICIES, per_task, table
from tests.dllm_decode.lab.lab_records import write_run

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_every_policy_has_its_row(tmp_path):
    policies = tuple(policy for policy, _ in POLICIES.values())
    write_run(tmp_path, policies, "copy,sort", ("none",), samples=2, templates=(0,))
    summary = summarise_folder(tmp_path)
    names = [*POLICIES, "EGP (oracle)"]
    head, rule, *rows = table(summary)
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    for row, (_, claim) in zip(rows, POLICIES.values(), strict=False):
        assert row.endswith(f"| {claim} |")
    by_task = per_task(summary)
    assert by_task[0] == "| policy | copy | sort |"
    assert [row.split(" | ")[0] for row in by_task[2:]] == [f"| {name}" for name in POLICIES]


def test_labels_are_unique_and_the_page_has_its_markers(tmp_path):
    assert len(LABELS) == len(POLICIES)
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    for name in ("overall", "tasks"):
        put(page, name, [f"new {name}"])
    assert "new overall" in page.read_text() and "new tasks" in page.read_text()
