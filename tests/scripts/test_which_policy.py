"""docs/which-policy.md: what is recommended, and a page from whatever has been measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel, load_model
from scripts import which_policy
from scripts.which_policy import KINDS, clock_table, from_run, main, of_gpu, of_papers, picks
from tests.dllm_decode.lab.lab_records import write_run
from tests.dllm_decode.lab.lab_toys import made

DOCS = Path(__file__).parents[2] / "docs"


def records(label, nfe, rows, wrong, count=200):
    return [
        made(label=label, policy=label, task="copy", sample=i, nfe=nfe, rows_forwarded=rows, correct=int(i >= wrong))
        for i in range(count)
    ]


def test_the_fastest_within_a_point_and_the_shortest_of_those_as_fast():
    run = [*records("static", 100, 100, 0), *records("wild", 1, 1, 3), *records("threshold", 10, 10, 2)]
    run += [*records("a+threshold", 10, 10, 0), *records("drafts", 5, 40, 0), *records("egp", 1, 1, 0)]
    run += records("unfinished", 2, 2, 0, count=9)
    found = picks(run, {"kind": ["copy"], "other": ["sort"]})
    assert set(found) == {"kind"}
    assert (found["kind"]["rows"]["policy"], found["kind"]["forwards"]["policy"]) == ("threshold", "drafts")
    assert found["kind"]["rows"]["points"] == -1.0 and found["kind"]["rows"]["accuracy"] == 99.0


def test_the_page_is_filled_from_what_there_is(tmp_path):
    for name in ("which-policy.md", "performance.md"):
        shutil.copy(DOCS / name, tmp_path)
    page = tmp_path / "which-policy.md"
    main(page=page, runs=[tmp_path / "none"], clocked=False, seconds=0)
    assert page.read_text().count("| not measured | not measured |") == len(KINDS)
    write_run(tmp_path / "run", ("threshold", "topk:k=2"), "latin4,sudoku4", ("none",))
    assert set(from_run(tmp_path / "run")) == {"grids"}
    main(page=page, runs=[tmp_path / "run"], clocked=False, seconds=0)
    main(page=page, runs=[tmp_path / "gone"], clocked=False, seconds=0)  # what was measured stays
    text = page.read_text()
    assert text.count("| not measured | not measured |") == len(KINDS) - 1
    assert "| **grids** (latin4, sudoku4) |" in text
    assert "$ dllm-decode evaluate --model toy --tasks latin4,sudoku4 --samples 4" in text
    write_run(tmp_path / "dual", ("threshold",), "latin4,sudoku4", ("dual",))
    main(page=page, runs=[tmp_path / "dual"], clocked=False, seconds=0)
    assert "| **grids** (latin4, sudoku4, dual cache) |" in page.read_text()


def test_this_machine_is_timed(monkeypatch):
    monkeypatch.setattr(which_policy, "BATCHES", (2,))
    monkeypatch.setattr(which_policy, "PROMPTS", {"short": 0})
    monkeypatch.setattr(which_policy, "CELLS", 16)
    shape = {"vocab_size": 600, "embedding_size": 600, "mask_token_id": 0}
    module = LLaDA(LLaDAConfig(d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=32, **shape))
    model = NativeModel(module, mask_id=0, eos_ids=(1,), tokenizer=load_model("tiny").tokenizer, name="tiny")
    found = which_policy.clock(model, 0)
    assert list(found) == ["short | 2"] and len(found["short | 2"]) == 9
    assert all(speed >= 0 for speed in found["short | 2"].values())


def test_tables_of_speed_and_of_the_gpu(tmp_path):
    speeds = {"threshold | none": 10.0, "a | none": 20.0, "threshold | prefix": 1.0, "threshold | dual": 30.0}
    assert clock_table({"short | 8": speeds})[-1] == ("| short | 8 | `a` 20 | `threshold` 1 | **`threshold` 30** |")
    page = tmp_path / "performance.md"
    begin, end = "<!-- gpu whole runs: begin -->\n", "\n<!-- gpu whole runs: end -->"
    page.write_text(f"{begin}\nNot measured.\n{end}")
    assert of_gpu(page) == ["- **GPU**: not measured."]
    page.write_text(f"{begin}\nCard.\n\n| m | slow | 1 | 256.0 | 5.0 |\n| m | quick | 1 | 256.0 | 46.0 |\n{end}")
    assert (
        "(m, prompt 1000, 256 cells, dual cache; Card): `quick`, 46.0 tokens per second (`slow` 5.0)"
        in of_gpu(page)[0]
    )


def test_of_the_papers_the_largest_fair_gain(tmp_path):
    file = tmp_path / "headlines.json"
    assert "not measured" in of_papers(file)[0]
    run = {"right": 9, "count": 10}
    chains = {
        name: {"it stops": {"seconds": 9.0, **run}, "with the policy": {"seconds": seconds, **run}}
        for name, seconds in (("X", 3.0), ("Y", 1.5), ("wrong", 0.5))
    }
    chains["wrong"]["with the policy"]["right"] = 0  # however fast
    file.write_text(json.dumps(chains))
    assert "Y gains most: 6.0 times as fast" in of_papers(file)[0]


def test_kinds_share_the_short_tasks_out():
    whole = KINDS["all fourteen"]
    parts = [task for tasks in KINDS.values() for task in tasks if tasks != whole and task in whole]
    assert sorted(parts) == sorted(whole)
