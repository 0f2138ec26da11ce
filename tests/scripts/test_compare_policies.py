"""The results script: the command's comparison, grids that parse, and a page that is complete."""

from __future__ import annotations

import json
import re

import pytest

from dllm_decode.lab.compare import compare
from dllm_decode.lab.points import points
from dllm_decode.lab.problems import task_names
from dllm_decode.lab.records import read_records
from dllm_decode.lab.summary import summarise_folder
from scripts.check_resume import timeless, whole
from scripts.compare_policies import GRID, ORACLE_GRID, ORACLES, main
from scripts.plots import write_plots
from scripts.results_page import PICTURES, findings, write_results
from tests.dllm_decode.lab.lab_records import write_run
from tests.dllm_decode.lab.lab_toys import random_checkpoint


def test_the_script_runs_the_commands_comparison(tmp_path, capsys):
    checkpoint = random_checkpoint(tmp_path / "model")
    grid = tmp_path / "grid.yaml"
    grid.write_text("threshold: {threshold: [0.1, 0.9]}\n")
    main(str(checkpoint), "copy", "none", samples=2, draws=0, grid=grid, out=tmp_path / "a", processes=1)
    other = compare(str(checkpoint), (), "copy", tmp_path / "b", grid=grid, samples=2, quiet=True)
    mine = summarise_folder(tmp_path / "a")
    for one, two in zip(mine["rows"], other["rows"], strict=True):
        assert (one["label"], one["nfe"], one["accuracy"]) == (two["label"], two["nfe"], two["accuracy"])
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}
    sentences = capsys.readouterr().out.splitlines()
    assert sentences == findings(mine, read_records(tmp_path / "a"))
    assert sentences and all(sentence.startswith("cache none: ") for sentence in sentences)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A made-up run over two caches, of which one leaves a policy out."""
    folder = tmp_path_factory.mktemp("run")
    policies = ("threshold:threshold=0.6", "threshold:threshold=0.9", "factor")
    records = write_run(folder, policies, "copy,lines", samples=6, templates=(0,))
    records = [r for r in records if (r["label"], r["cache"]) != ("factor", "dual")]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    setting = json.loads((folder / "setting.json").read_text())
    left = {"left_out": [{"label": "factor", "cache": "dual", "why": "on copy: it does not fit."}]}
    (folder / "setting.json").write_text(json.dumps({**setting, **left, "threads": 1, "processes": 2}))
    return folder, summarise_folder(folder), records


def test_findings_say_what_the_figures_say(finished):
    _, summary, records = finished
    sentences = findings(summary, records)
    text = "\n".join(sentences)
    rows = {(r["label"], r["cache"]): r for r in summary["rows"] if r["task"] == "all"}
    for cache in ("none", "dual"):
        allowed = [
            r
            for (_, of), r in rows.items()
            if of == cache and r["accuracy"] >= rows["static", cache]["accuracy"] - 0.01
        ]
        best = max(allowed, key=lambda r: r["tpf_content"])
        if best["kind"] == "static":
            assert f"cache {cache}: nothing is faster than static decoding" in text
        else:
            assert f"`{best['label']}` is the fastest with {best['tpf_content']:.2f} content tokens" in text
    assert "cache dual against none, static decoding: " in text
    assert "EGP reaches" in text and "the best policy of each sample reaches" in text
    assert len(sentences) == len(set(sentences))


def test_the_page_holds_pictures_tables_and_what_was_left_out(finished, tmp_path):
    pytest.importorskip("matplotlib")
    folder, summary, records = finished
    write_plots(folder, summary)
    page = tmp_path / "docs" / "results.md"
    write_results(page, folder, summary, records, None, ["threshold:threshold=0.6"])
    text = page.read_text()
    assert text.count("| `threshold:threshold=0.6` *tuned* |") == 4 and "Rows with *tuned* have values" in text
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(f"results/{name}-{cache}.png" for name in PICTURES for cache in ("none", "dual"))
    for name in shown:
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")
    assert (
        text.startswith("# Results")
        and "\n$ python -m scripts.compare_policies --samples 6 --block-length 32 --docs docs/results.md\n" in text
    )
    assert "2 processes, 1 thread each" in text
    assert "Left out: `factor` with cache dual, on copy: it does not fit." in text
    none, dual = text.split("## Cache dual")
    assert "| `factor` |" in none and "| `factor` |" not in dual
    for sentence in findings(summary, records):
        assert f"- {sentence}" in text
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 2 * 4
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_oracle_grid_and_its_tasks_are_real():
    assert len(task_names(ORACLES)) == 5
    assert len(points((), ORACLE_GRID)) > 10


def test_the_results_grid_names_real_policies():
    found = points((), GRID)
    assert len(found) > 20
    assert len({p.label for p in found}) == len(found)


def test_lines_are_compared_without_their_times():
    line = json.dumps({"key": "a", "wall_s": 0.5, "model_s": 0.4, "policy_s": 0.1, "nfe": 3}).encode()
    other = json.dumps({"key": "a", "wall_s": 9.5, "model_s": 0.4, "policy_s": 9.1, "nfe": 3}).encode()
    assert timeless(line) == timeless(other)
    assert timeless(line) != timeless(line.replace(b"3}", b"4}"))
    assert whole(line + b"\n" + other[:5]) == line + b"\n"
    assert whole(line) == b""
